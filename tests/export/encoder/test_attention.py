"""The merged block against SAM's own, and against a plain form with merged slots."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.choices import Attention, Destination, Place, Reduction
from structsam_export.encoder.attention import MergedAttention, MergedBlock, distances, relative_positions
from structsam_export.encoder.patch import grid_of, windows_of
from structsam_export.merging import (
    ALGM,
    Adjacent,
    Bipartite,
    Hybrid,
    Identity,
    MergePlan,
    Method,
    PiToMe,
    StructSAM,
    ToMe,
    ToMeSD,
    VidToMe,
    Windows,
)

Attend = Callable[..., Tensor]

# Outputs are of order one and every product sums some hundred terms of order one in another order than the
# reference, so fp32 may differ by some ten times its 6e-8; fp64 then shows that nothing but rounding does.
FORMS = [which for which in Attention if which is not Attention.GATHER]  # which knows no mean places
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=ROUNDING[one.dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("destination", [Destination.MIN, Destination.MAX, Destination.RANDOM])
def test_attention_among_merged_slots_has_sams_relative_position(
    encoder: Any,
    features: Tensor,
    plain_attention: Attend,
    index: int,
    destination: Destination,
    dtype: torch.dtype,
) -> None:
    windows, block = windows_of(encoder)[index], copy.deepcopy(encoder.blocks[index]).to(dtype)
    plan = StructSAM(0.55, destination=destination).plan(features, windows)
    slots = plan.merge(windows.cut(features.to(dtype)))
    expected = block.attn.proj(plain_attention(block.attn, slots, plan.position, windows.side))
    assert close(MergedAttention(block.attn, windows.side)(slots, plan.position), expected)


def shares_of(plan: MergePlan, dtype: torch.dtype) -> Tensor:
    """[B', K, N]: one over the size of a slot for every token in it."""
    member = torch.nn.functional.one_hot(plan.slot.long(), plan.position.shape[1]).to(dtype)
    return (member / plan.size[:, None]).transpose(1, 2)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("destination", [Destination.MIN, Destination.MAX])
def test_a_cell_at_its_mean_place_has_the_mean_bias_of_its_tokens(
    encoder: Any,
    features: Tensor,
    plain_attention: Attend,
    index: int,
    destination: Destination,
    dtype: torch.dtype,
) -> None:
    """Over all pairs of a token of the one and a token of the other, whichever token is the destination."""
    windows, block = windows_of(encoder)[index], copy.deepcopy(encoder.blocks[index]).to(dtype)
    plan = StructSAM(0.55, destination=destination, place=Place.MEAN).plan(features, windows)
    slots = plan.merge(windows.cut(features.to(dtype)))
    shares = shares_of(plan, dtype)
    expected = block.attn.proj(plain_attention(block.attn, slots, plan.position, windows.side, shares))
    for which in FORMS:
        attention = MergedAttention(block.attn, windows.side, footprint=2, form=which)
        assert close(attention(slots, plan.position, plan.size), expected), which


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("place", Place)
def test_proportional_attention_is_attention_among_copies(
    encoder: Any,
    features: Tensor,
    plain_attention: Attend,
    index: int,
    place: Place,
    dtype: torch.dtype,
) -> None:
    """Of a slot for each of its tokens, all at the slot's place. The logarithm is always fp32."""
    windows, block = windows_of(encoder)[index], copy.deepcopy(encoder.blocks[index]).to(dtype)
    method = StructSAM(0.55, place=place)
    plan = method.plan(features, windows)
    slots = plan.merge(windows.cut(features.to(dtype)))
    copies = plan.position.gather(1, plan.slot.long())
    rows = plan.slot.long()[..., None].expand(-1, -1, windows.tokens)
    shares = shares_of(plan, dtype).gather(1, rows) if place is Place.MEAN else None
    attended = plain_attention(block.attn, plan.unmerge(slots), copies, windows.side, shares)
    expected = block.attn.proj(attended)
    for which in [*FORMS, Attention.GATHER] if place is Place.DESTINATION else FORMS:
        attention = MergedAttention(block.attn, windows.side, method.footprint, proportional=True, form=which)
        own = plan.unmerge(attention(slots, plan.position, plan.size))
        assert torch.allclose(own, expected, rtol=0, atol=ROUNDING[torch.float32]), which


@pytest.mark.parametrize("dtype", ROUNDING)
def test_attention_without_relative_position_is_plain(
    build_encoder: Callable[..., Any], dtype: torch.dtype
) -> None:
    attention = build_encoder(64, use_rel_pos=False).blocks[0].attn.to(dtype)
    x, position = torch.randn(3, 16, 64, dtype=dtype), torch.arange(16, dtype=torch.int32).expand(3, -1)
    expected = attention(x.view(3, 4, 4, 64)).flatten(1, 2)
    assert close(MergedAttention(attention, 4)(x, position), expected)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("side", [4, 7])
def test_attention_among_all_tokens_is_sams(
    build_encoder: Callable[..., Any], side: int, dtype: torch.dtype
) -> None:
    """At side 7 the relative positions, made for 4, are interpolated."""
    attention = build_encoder(64).blocks[1].attn.to(dtype)
    x = torch.randn(3, side * side, 64, dtype=dtype)
    position = torch.arange(side * side, dtype=torch.int32).expand(3, -1)
    expected = attention(x.view(3, side, side, 64)).flatten(1, 2)
    tolerance = ROUNDING[torch.float32 if side == 7 else dtype]  # the interpolation is always fp32
    own = MergedAttention(attention, side)(x, position)
    assert torch.allclose(own, expected, rtol=0, atol=tolerance)


def test_order_of_slots_does_not_matter(encoder: Any, features: Tensor) -> None:
    windows = windows_of(encoder)[1]
    plan = StructSAM(0.55).plan(features, windows)
    slots = plan.merge(windows.cut(features))
    attention = MergedAttention(encoder.blocks[1].attn, windows.side)
    order = torch.randperm(slots.shape[1], generator=torch.Generator().manual_seed(0))
    assert close(
        attention(slots[:, order], plan.position[:, order]), attention(slots, plan.position)[:, order]
    )


@pytest.mark.parametrize("length", [9, 27, 127])
def test_distances_point_to_sams_relative_positions(encoder: Any, length: int) -> None:
    """Exactly, whether interpolated or not."""
    rel_pos, side = torch.randn(length, 5), 14
    sams = type(encoder.blocks[0].attn).forward.__globals__["get_rel_pos"](side, side, rel_pos)
    vectors = relative_positions(rel_pos, side).repeat(2, 1)
    table = vectors[distances(side).long()].view(side, side, 2, side, 5)  # [row, column, axis, key, d]
    assert torch.equal(table[:, :, 0], sams[:, None].expand(-1, side, -1, -1))
    assert torch.equal(table[:, :, 1], sams.expand(side, -1, -1, -1))


METHODS = [
    StructSAM(0.55),
    StructSAM(0.55, reduction=Reduction.REPLACE),
    Bipartite(0.55, heads=2),
    ToMe(0.55, heads=2),
    ToMeSD(0.55, heads=2),
    PiToMe(0.55, heads=2),
    VidToMe(0.55, heads=2),
    ALGM(0.55, heads=2),
    Hybrid(0.55, heads=2),
    Adjacent(0.55, heads=2, proportional=False),
]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_block_is_merge_attention_unmerge_and_projection(
    encoder: Any, features: Tensor, plain_attention: Attend, method: Method, index: int
) -> None:
    """The reference projects all tokens after unmerging, which gives the numbers of projecting slots."""
    windows, block = windows_of(encoder)[index], encoder.blocks[index]
    normed = block.norm1(features)
    plan = method.plan(normed, windows)
    attended = plain_attention(block.attn, plan.merge(windows.cut(normed)), plan.position, windows.side)
    projected = block.attn.proj(plan.unmerge(attended)).flatten(0, 1)
    rows = windows.token_of_row(len(features), features.device).long()
    x = features + projected[rows].view(features.shape)
    expected = x + block.mlp(block.norm2(x))
    out, (told,) = MergedBlock(block, windows, method).forward_with_plans(features)
    assert close(out, expected)
    assert torch.equal(told.slot, plan.slot)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "method",
    [
        StructSAM(0.55, place=Place.MEAN),
        Bipartite(0.55, heads=2, proportional=True),
        Adjacent(0.55, heads=2),
    ],
    ids=["mean place", "proportional", "adjacent"],
)
def test_a_block_attends_as_its_method_says(
    encoder: Any, features: Tensor, method: Method, index: int
) -> None:
    windows, block = windows_of(encoder)[index], encoder.blocks[index]
    normed = block.norm1(features)
    plan = method.plan(normed, windows)
    attention = MergedAttention(block.attn, windows.side, method.footprint, method.proportional)
    slots = attention(plan.merge(windows.cut(normed)), plan.position, plan.size)
    rows = windows.token_of_row(len(features), features.device).long()
    x = features + plan.unmerge(slots).flatten(0, 1)[rows].view(features.shape)
    expected = x + block.mlp(block.norm2(x))
    made = MergedBlock(block, windows, method)(features)
    assert close(made, expected)
    plain = MergedBlock(block, windows, StructSAM(0.55) if index else Bipartite(0.55, heads=2))(features)
    assert not close(made, plain), "it makes a difference"


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_with_a_merged_mlp_every_token_changes_as_its_slot_does(
    encoder: Any, features: Tensor, plain_attention: Attend, method: Method, index: int
) -> None:
    """Slots are made of the tokens before and behind norm1 by the same plan."""
    windows, block = windows_of(encoder)[index], encoder.blocks[index]
    normed = block.norm1(features)
    plan = method.plan(normed, windows)
    before = plan.merge(windows.cut(features))
    merged = plan.merge(windows.cut(normed))
    after = before + block.attn.proj(plain_attention(block.attn, merged, plan.position, windows.side))
    after = after + block.mlp(block.norm2(after))
    rows = windows.token_of_row(len(features), features.device).long()
    expected = features + plan.unmerge(after - before).flatten(0, 1)[rows].view(features.shape)
    assert close(MergedBlock(block, windows, method, merge_mlp=True)(features), expected)


@pytest.mark.parametrize("merge_mlp", [False, True])
@pytest.mark.parametrize("method", [Identity(), StructSAM(0.0)])
@pytest.mark.parametrize("index", [0, 1])
def test_a_block_that_merges_nothing_is_sams_block(
    encoder: Any, features: Tensor, method: Method, index: int, merge_mlp: bool
) -> None:
    block = encoder.blocks[index]
    assert close(MergedBlock(block, windows_of(encoder)[index], method, merge_mlp)(features), block(features))


def test_a_batch_gives_what_its_images_give_alone(
    encoder: Any, features: Tensor, structsam: StructSAM
) -> None:
    block = MergedBlock(encoder.blocks[0], windows_of(encoder)[0], structsam)
    alone = torch.cat([block(image[None]) for image in features])
    assert close(block(features), alone)


def test_a_global_block_is_one_window_over_the_grid(encoder: Any) -> None:
    assert grid_of(encoder) == 20
    assert windows_of(encoder) == [Windows(20, 20, side) for side in (14, 20, 14, 20)]
