"""What a family wants reaches the weights, the manifest and the runtime's preparation of pictures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import skimage.data

from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import build_sam, sam_modules
from structsam_export.models.family import FAMILIES
from structsam_export.pipeline import encoder_inputs, example_prompts
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare


def test_every_architecture_is_of_a_family() -> None:
    assert {size.family for size in ARCHITECTURES.values()} == {"sam"}
    assert all(name == family.name for name, family in FAMILIES.items())


def test_sams_pixels_are_metas(tiny: str) -> None:
    sam = build_sam(tiny, 64)
    plain = sam_modules().Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)
    assert sam.pixel_mean.equal(plain.pixel_mean)
    assert sam.pixel_std.equal(plain.pixel_std)


@pytest.fixture
def model(tiny_architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`model(family)`: what the manifest says of a small model of 128 pixels of that family."""

    def of(family: str) -> Model:
        monkeypatch.setitem(ARCHITECTURES, "small", replace(tiny_architecture, family=family))
        config = ExportConfig("small", random_weights=True, image_size=128)
        return model_of(config, build_sam("small", 128))

    return of


def test_sam_pads_and_scales_by_deviation(model: Any) -> None:
    sam = model("sam")
    assert (sam.scaling, sam.fit, sam.pixel_std[2]) == ("deviation", "pad", 57.375)
    assert sam.pixel_mean == pytest.approx((123.675, 116.28, 103.53))


def test_medsam_stretches_and_scales_each_picture_to_its_own_range(model: Any) -> None:
    picture = skimage.data.coffee()  # 400 x 600
    tensor, frame = prepare(picture, model("medsam"))
    assert (frame.resized_height, frame.resized_width) == (128, 128)
    assert (tensor.min(), tensor.max()) == (0, 1)
    assert np.ptp(tensor[0, :, -1]) > 0.1, "the picture reaches the last row"


def test_graphs_take_what_the_family_says(tiny: str) -> None:
    family = FAMILIES["sam"]
    config = ExportConfig.of(tiny, random_weights=True, prompt_windows=1, rate_background=0.6)
    assert tuple(encoder_inputs(config)) == family.encoder_inputs
    assert tuple(example_prompts(config)[0]) == family.decoder_inputs
