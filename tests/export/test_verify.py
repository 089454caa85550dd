"""What verification asks of a prompt-aware encoder when the export decided otherwise than PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from structsam_export.choices import Flatness
from structsam_export.encoder import apply, merged_blocks
from structsam_export.encoder.exported import PlannedEncoder, output_names, told_plans
from structsam_export.merging import Method, StructSAM
from structsam_export.verify import _agreement, _by_block, _replayed, priors
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]


def methods(flatness: Flatness) -> list[Method]:
    """Of a window block and a global one."""
    around = StructSAM(0.6, flatness=flatness)
    return [StructSAM(0.6, flatness=flatness, prompt_windows=1, rate_prompt=0.3), around]


@pytest.mark.parametrize("other", Flatness)
def test_pytorch_follows_the_plans_of_another_run_and_tells_its_own(
    build_encoder: Build, photographs: Photographs, other: Flatness
) -> None:
    """The other run stands for an export; its flatness is another, so that it merges other cells."""
    encoder, image = build_encoder(320, depth=2, global_attn_indexes=(1,)), photographs(320)[:1]
    prior = torch.zeros(1, 20, 20)
    prior[:, 15:19, 4:12] = 1
    feed = {"image": image.numpy(), "prior": prior.numpy()}
    names = output_names_of(encoder, methods(other))
    theirs = {n: v.numpy() for n, v in zip(names, PlannedEncoder(encoder)(image, prior), strict=True)}
    own = methods(Flatness.MAX)
    apply(encoder, own)
    (made,) = _replayed(encoder, [theirs], [feed])
    assert [block.method for block in merged_blocks(encoder)] == own, "the encoder is left as it was"
    assert np.abs(made["image_embedding"] - theirs["image_embedding"]).max() <= 1e-5
    assert made.keys() == theirs.keys()
    agreement = {
        index: _agreement(made, theirs, plans) for index, plans in _by_block(told_plans(encoder)).items()
    }
    assert agreement.keys() == {0, 1}
    if other is Flatness.MAX:
        assert set(agreement.values()) == {1.0}
    else:
        assert all(0.3 < share < 1 for share in agreement.values())


def test_blocks_that_follow_another_one_follow_the_export_too(
    build_encoder: Build, photographs: Photographs
) -> None:
    """PyTorch's own decision is told of the leaders alone, from what enters them."""
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [StructSAM(0.55, flatness=Flatness.MEAN)] * 4, plan_every=2)
    names = output_names(encoder)
    theirs = {n: v.numpy() for n, v in zip(names, PlannedEncoder(encoder)(image), strict=True)}
    apply(encoder, [StructSAM(0.55)] * 4, plan_every=2)
    (made,) = _replayed(encoder, [theirs], [{"image": image.numpy()}])
    assert names == [
        "image_embedding",
        *(f"blocks.{i}.{what}" for i in (0, 1) for what in ("slot", "position")),
    ]
    assert set(made) == set(names)
    assert np.abs(made["image_embedding"] - theirs["image_embedding"]).max() <= 1e-5
    assert not np.array_equal(made["blocks.0.slot"], theirs["blocks.0.slot"])
    apply(encoder, [StructSAM(0.55)] * 4)
    first = merged_blocks(encoder)[0].decide(encoder.patch_embed(image) + encoder.pos_embed)
    assert np.array_equal(made["blocks.0.slot"], first[0].slot.numpy())


def output_names_of(encoder: Any, which: list[Method]) -> list[str]:
    apply(encoder, which)
    return output_names(encoder)


def test_priors_are_of_nothing_one_box_and_two(sam: Model) -> None:
    made = list(priors(Frame.of(400, 600, 1024), sam).values())
    covered = [float(prior.sum()) for prior in made]
    assert covered[0] == 0
    assert covered[1] == pytest.approx((1024 / 3 / 16 + 1 / 16) * (683 / 3 / 16 + 1 / 16), rel=1e-6)
    assert covered[2] > covered[1]
    assert all((prior[:, 43:] == 0).all() for prior in made), "below the picture there is none"
