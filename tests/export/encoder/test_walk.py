"""The walk through an encoder: Meta's own loop, in steps, with plans that are handed on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.choices import Attention
from structsam_export.encoder import apply
from structsam_export.encoder.exported import PlannedEncoder
from structsam_export.encoder.walk import Plans, WalkedEncoder, embed, enter, leave, walk
from structsam_export.merging import Identity, StructSAM
from structsam_export.merging.reduction import CellMean, Chain, Mean, Mix, Pick

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]
PAIRS: list[int | None] = [None, None, 0, 1]
"""The first window block decides for the second, the first global one for the second."""


@pytest.mark.parametrize("changes", [{}, {"use_abs_pos": False}])
def test_an_encoder_that_is_not_patched_is_metas_to_the_last_bit(
    build_encoder: Build, photographs: Photographs, changes: dict[str, Any]
) -> None:
    encoder, image = build_encoder(160, **changes), photographs(160)[:2]
    embedding, plans = embed(encoder, image)
    assert torch.equal(embedding, encoder(image))
    assert torch.equal(WalkedEncoder(encoder)(image), embedding)
    assert plans == ((), (), (), ())


@pytest.mark.parametrize("leaders", [None, PAIRS])
def test_a_walk_that_stops_goes_on_where_it_was(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM, leaders: list[int | None] | None
) -> None:
    """Behind a leader, too: its plans are part of the stage."""
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [structsam] * 4, leaders=leaders)
    whole, _ = embed(encoder, image)
    stages = [enter(encoder, image)]
    stages += walk(encoder.blocks, stages[0])
    assert [len(stage.plans) for stage in stages] == [0, 1, 2, 3, 4]
    for stage in stages:
        *_, last = [stage, *walk(encoder.blocks, stage)]
        assert torch.equal(leave(encoder, last), whole)


@pytest.mark.long
@pytest.mark.parametrize("rate", [0.0, 0.55])
def test_a_compiled_encoder_is_one_graph_and_the_same(
    build_encoder: Build, photographs: Photographs, rate: float
) -> None:
    """Traced as `torch.compile` does, without its code."""
    encoder, image = build_encoder(160), photographs(160)[:2]
    apply(encoder, [StructSAM(rate) if rate else Identity()] * 4, form=Attention.OPERATOR)
    module = PlannedEncoder(encoder)
    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=False, fullgraph=True, backend="eager")
    with torch.no_grad():
        embedding, *plans = compiled(image)
        expected, *same = module(image)
    torch.testing.assert_close(embedding, expected)
    assert len(plans) == len(same) == (8 if rate else 0)
    assert all(map(torch.equal, plans, same))


@pytest.mark.parametrize("rule", [Pick, CellMean, Mix, Chain, Mean])
def test_rules_hash_before_they_have_attributes(rule: type) -> None:
    """As `torch.compile` up to PyTorch 2.11 does with whatever is called."""
    empty = rule.__new__(rule)
    assert empty in {empty}


def test_walks_share_nothing(build_encoder: Build, photographs: Photographs, structsam: StructSAM) -> None:
    """Two images at a time, block by block: each follows its own leader's plans."""
    encoder, images = build_encoder(320), photographs(320)
    apply(encoder, [structsam] * 4, leaders=PAIRS)
    expected = [embed(encoder, image[None])[0] for image in images]
    attributes = [set(vars(block)) for block in encoder.blocks]
    walks = [walk(encoder.blocks, enter(encoder, image[None])) for image in images]
    *_, last = zip(*walks, strict=True)
    for stage, embedding in zip(last, expected, strict=True):
        assert torch.equal(leave(encoder, stage), embedding)
    assert [set(vars(block)) for block in encoder.blocks] == attributes


def test_plans_that_are_given_replace_what_a_block_decides(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    """And what followers of that block merge by."""
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [StructSAM(0.3)] * 4)
    other, theirs = embed(encoder, image)
    apply(encoder, [structsam] * 4)
    asked: list[int] = []

    def given(index: int, x: Tensor) -> Plans | None:
        asked.append(index)
        assert x.shape == (1, 20, 20, 64)
        return theirs[index] if index < 2 else None

    mixed, plans = embed(encoder, image, given=given)
    assert asked == [0, 1, 2, 3]
    assert [mine is told for mine, told in zip(plans, theirs, strict=True)] == [True, True, False, False]
    apply(encoder, [StructSAM(0.3)] * 2 + [structsam] * 2)
    assert torch.equal(mixed, embed(encoder, image)[0])
    apply(encoder, [structsam] * 4, leaders=PAIRS)
    assert embed(encoder, image, given=given)[1][2] is theirs[0]
    assert not torch.equal(mixed, other)


def test_metas_own_loop_is_refused_where_a_block_follows_another(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [structsam] * 4)
    assert torch.equal(encoder(image), WalkedEncoder(encoder)(image))
    apply(encoder, [structsam] * 4, leaders=PAIRS)
    assert torch.equal(PlannedEncoder(encoder)(image)[0], WalkedEncoder(encoder)(image))
    with pytest.raises(RuntimeError, match=r"plans of block 0: .*encoder\.walk\.embed"):
        encoder(image)
