"""The geometry of the model that is trained, and what it can begin with."""

from dataclasses import replace

import pytest
import torch

from structsam_export.models.architectures import ARCHITECTURES, DEFAULT, Architecture
from structsam_export.models.checkpoints import (
    build_sam,
    load_weights,
    own_weights,
    randomize,
    read_checkpoint,
)
from structsam_export.training.nano import NANO, build, inherit
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


def test_the_same_sizes_are_inherited_as_they_are(tiny_nano: Architecture) -> None:
    weights = build_sam(tiny_nano, 32).state_dict()
    begun = inherit(weights, tiny_nano)
    assert begun.keys() == weights.keys()
    assert all(begun[name] is weights[name] for name in weights)


def test_blocks_begin_as_the_nearest_of_their_kind(tiny_nano: Architecture) -> None:
    deep = replace(tiny_nano, depth=8, global_blocks=(1, 3, 5, 7))
    shallow = replace(tiny_nano, depth=6, global_blocks=(2, 5))
    old = build_sam(deep, 32)
    randomize(old)
    begun = build(shallow, 32, "cpu", inherit(old.state_dict(), shallow)).image_encoder.blocks
    for own, nearest in enumerate((0, 2, 3, 4, 6, 7)):
        kept = old.image_encoder.blocks[nearest].state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in begun[own].state_dict().items())


def test_patches_see_the_same_in_more_pixels(tiny_nano: Architecture) -> None:
    """A picture and the same with every pixel four times."""
    coarse = replace(tiny_nano, patch=2 * tiny_nano.patch)
    old = build_sam(coarse, 64)
    randomize(old)
    begun = build(tiny_nano, 32, "cpu", inherit(old.state_dict(), tiny_nano))
    small = torch.randn(1, 3, 32, 32)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(begun.image_encoder(small), old.image_encoder(large), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(ARCHITECTURES[DEFAULT].patch == NANO.patch, reason="weights of these sizes ship")
def test_the_shipped_weights_are_a_beginning() -> None:
    weights = read_checkpoint(own_weights(DEFAULT))
    build(NANO, 224, "cpu", inherit(weights, NANO))


def test_other_widths_are_a_users_error(tiny_nano: Architecture) -> None:
    weights = build_sam(replace(tiny_nano, embed_dim=32), 32).state_dict()
    with pytest.raises(UserError, match=r"the checkpoint is not a SAM vit_nano: .* have another shape"):
        build(tiny_nano, 32, "cpu", inherit(weights, tiny_nano))
    with pytest.raises(UserError, match="tensors are missing"):
        build(tiny_nano, 32, "cpu", inherit({}, tiny_nano))
