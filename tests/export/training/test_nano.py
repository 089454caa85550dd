"""The geometry of the model that is trained, and its weights."""

from dataclasses import replace

import pytest
import torch

from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import (
    build_sam,
    load_weights,
    randomize,
)
from structsam_export.training.nano import NANO, build
from structsam_runtime.errors import UserError


def test_nano_has_sams_geometry_and_fits_in_a_package() -> None:
    large = ARCHITECTURES["vit_b"]
    assert NANO.grid(NANO.image_size) == large.grid(large.image_size) == 64
    assert NANO.mask_side(NANO.image_size) == large.mask_side(large.image_size) == NANO.image_size // 2
    assert (NANO.window, NANO.embed_dim // NANO.heads) == (large.window, large.embed_dim // large.heads)
    numbers = sum(value.numel() for value in build_sam(NANO).state_dict().values())
    assert 3e6 < numbers < 6e6  # times two bytes in half precision: under 12 MB


def test_what_is_trained_loads_as_a_sam(tiny_nano: Architecture) -> None:
    """Fused attention has no names of its own; sizes of pictures differ in positions alone."""
    sam = build(tiny_nano, 32, "cpu", None)
    randomize(sam)
    load_weights(build_sam(tiny_nano, 32), sam.state_dict(), "tiny", "what is trained")
    larger = build(tiny_nano, 64, "cpu", sam.state_dict()).state_dict()
    changed = {name for name, value in sam.state_dict().items() if not torch.equal(value, larger[name])}
    assert "image_encoder.pos_embed" in changed
    assert all("pos" in name for name in changed)


def test_other_widths_are_a_users_error(tiny_nano: Architecture) -> None:
    weights = build_sam(replace(tiny_nano, embed_dim=32), 32).state_dict()
    with pytest.raises(UserError, match=r"the checkpoint is not a SAM vit_nano: .* have another shape"):
        build(tiny_nano, 32, "cpu", weights)
    with pytest.raises(UserError, match="tensors are missing"):
        build(tiny_nano, 32, "cpu", {})
