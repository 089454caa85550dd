"""Merging goes into SAM's encoder and comes out again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.encoder import MergedBlock, apply, merged_blocks, remove
from structsam_export.encoder.exported import PlannedEncoder, output_names, told_plans
from structsam_export.encoder.walk import embed
from structsam_export.merging import Identity, MergePlan, StructSAM, Windows

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]

# Embeddings have a deviation of one, by their last normalisation. Four blocks of sums in another order leave
# some ten roundings of 6e-8 on each.
ROUNDING = 1e-5


@pytest.mark.parametrize("image_size", [64, 160, 224, 320, 512])
def test_at_rate_0_the_encoder_is_metas(
    build_encoder: Build, photographs: Photographs, image_size: int
) -> None:
    """Batch 2; grids smaller than a window, of one window, of several, padded and not."""
    encoder, image = build_encoder(image_size), photographs(image_size)[:2]
    expected = encoder(image)
    for method in (Identity(), StructSAM(0.0)):
        apply(encoder, [method] * 4)
        assert torch.allclose(encoder(image), expected, rtol=0, atol=ROUNDING)


def test_without_position_embeddings_the_encoder_is_metas_too(
    build_encoder: Build, photographs: Photographs
) -> None:
    encoder, image = build_encoder(160, use_abs_pos=False, use_rel_pos=False), photographs(160)
    expected = encoder(image)
    apply(encoder, [Identity()] * 4)
    assert torch.allclose(PlannedEncoder(encoder)(image)[0], expected, rtol=0, atol=ROUNDING)


def test_removing_gives_back_the_very_same_encoder(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:1]
    before, blocks = encoder(image), list(encoder.blocks)
    modules = [id(module) for module in encoder.modules()]
    apply(encoder, [structsam] * 4)
    assert not torch.allclose(encoder(image), before, atol=0.01), "merging does something"
    remove(encoder)
    assert all(now is then for now, then in zip(encoder.blocks, blocks, strict=True))
    assert [id(module) for module in encoder.modules()] == modules
    assert torch.equal(encoder(image), before)


def test_removing_from_an_encoder_that_was_not_patched_does_nothing(build_encoder: Build) -> None:
    encoder = build_encoder(64)
    blocks = list(encoder.blocks)
    remove(encoder)
    assert list(encoder.blocks) == blocks


def test_applying_twice_is_applying_once(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [structsam] * 4)
    once = encoder(image)
    apply(encoder, [structsam] * 4)
    assert torch.equal(encoder(image), once)
    assert not any(isinstance(block.original, MergedBlock) for block in encoder.blocks)


def test_applying_another_method_replaces_the_first(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [structsam] * 4)
    expected = encoder(image)
    apply(encoder, [StructSAM(0.3)] * 4)
    apply(encoder, [structsam] * 4)
    assert torch.equal(encoder(image), expected)


def test_parameters_keep_their_names_and_their_memory(build_encoder: Build, structsam: StructSAM) -> None:
    encoder = build_encoder(320)
    before = {name: value.data_ptr() for name, value in encoder.state_dict().items()}
    apply(encoder, [structsam] * 4)
    assert {name: value.data_ptr() for name, value in encoder.state_dict().items()} == before
    assert [name for name, _ in encoder.named_parameters()] == list(before)


def test_one_plan_serves_blocks_of_its_kind(build_encoder: Build, photographs: Photographs) -> None:
    """Against blocks that are called one by one and handed what the leader decided."""
    encoder, image = build_encoder(320, depth=6, global_attn_indexes=(2, 5)), photographs(320)[:1]
    methods = [StructSAM(0.55), StructSAM(0.3), StructSAM(0.55), Identity(), StructSAM(0.55), StructSAM(0.3)]
    apply(encoder, methods, leaders=[None, 0, None, None, None, 2])
    blocks = merged_blocks(encoder)
    assert [block.decides for block in blocks] == [True, False, True, True, True, False]
    assert [told.index for told in told_plans(encoder)] == [0, 2, 4]
    shared, plans = embed(encoder, image)
    x, made = encoder.patch_embed(image) + encoder.pos_embed, []
    for block, leader in zip(list(blocks), (0, 0, 2, 3, 4, 2), strict=True):
        told = Decided(made[leader]) if leader < len(made) else block.method
        x, (plan,) = MergedBlock(block.original, block.windows, told).forward_with_plans(x)
        made.append(plan)
    assert torch.equal(shared, encoder.neck(x.permute(0, 3, 1, 2)))
    assert [next(i for i, other in enumerate(plans) if other is told) for told in plans] == [0, 0, 2, 3, 4, 2]


class Decided(Identity):
    """Merges what was decided elsewhere."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan_ = plan

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        return self.plan_


@pytest.mark.parametrize("options", [{"merge_mlp": [True] * 4}, {"leaders": [None, None, 0, 1]}])
def test_at_rate_0_options_change_nothing(
    build_encoder: Build, photographs: Photographs, options: dict[str, Any]
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:1]
    expected = encoder(image)
    for method in (Identity(), StructSAM(0.0)):
        apply(encoder, [method] * 4, **options)
        assert torch.allclose(embed(encoder, image)[0], expected, rtol=0, atol=ROUNDING)


def test_a_method_for_every_block_is_needed(build_encoder: Build, structsam: StructSAM) -> None:
    with pytest.raises(ValueError, match="zip"):
        apply(build_encoder(64), [structsam] * 3)


def test_the_exported_module_gives_the_embedding_and_the_plans(
    build_encoder: Build, photographs: Photographs
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:2]
    apply(encoder, [StructSAM(0.55), Identity(), StructSAM(0.0), StructSAM(0.3)])
    assert [told.index for told in told_plans(encoder)] == [0, 3]
    assert output_names(encoder) == [
        "image_embedding",
        "blocks.0.slot",
        "blocks.0.position",
        "blocks.3.slot",
        "blocks.3.position",
    ]
    outputs = PlannedEncoder(encoder)(image)
    assert torch.equal(outputs[0], encoder(image))
    assert [tuple(output.shape) for output in outputs] == [
        (2, 32, 20, 20),
        (8, 196),
        (8, 88),
        (2, 400),
        (2, 280),
    ]
    assert all(output.dtype == torch.int32 for output in outputs[1:])
    entered = encoder.patch_embed(image) + encoder.pos_embed
    _, (first,) = merged_blocks(encoder)[0].forward_with_plans(entered)
    assert torch.equal(outputs[1], first.slot)
    assert torch.equal(outputs[2], first.position)
