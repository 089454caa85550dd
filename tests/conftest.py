"""What the tests of both sides share."""

import pytest

from structsam_runtime.manifest import Model

SAM = Model(
    arch="vit_b",
    image_size=1024,
    embedding=(256, 64, 64),
    low_res=256,
    mask_threshold=0.0,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    precision="fp32",
)


@pytest.fixture(scope="session")
def sam() -> Model:
    """The sizes and constants of SAM."""
    return SAM
