"""What every plan promises: merging and unmerging are exact, and read the same wherever tokens lie."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.merging import MergePlan, StructSAM, Windows

CPU = torch.device("cpu")


@st.composite
def planned(draw: st.DrawFn) -> tuple[Tensor, Windows, MergePlan, StructSAM]:
    """A map of whole numbers, divisible so that means are exact, and a plan made for it."""
    side, cell = draw(st.sampled_from([(4, 2), (6, 2), (6, 3), (14, 7)]))
    height, width = draw(st.integers(1, 2 * side)), draw(st.integers(1, 2 * side))
    rate = draw(st.floats(0, 1 - 1 / cell**2))
    method = StructSAM(rate, cell, cells=draw(st.booleans()))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x = torch.randint(-9, 10, (draw(st.integers(1, 2)), height, width, 3), generator=generator)
    x = (x * cell**2).float()
    windows = Windows(height, width, side)
    return x, windows, method.plan(x, windows), method


@given(made=planned())
def test_a_plan_is_valid(plain: SimpleNamespace, made: tuple[Tensor, Windows, MergePlan, StructSAM]) -> None:
    plain.check_valid(made[2])


@given(made=planned())
def test_unmerging_gives_back_kept_tokens_and_the_means_of_merged_ones(
    made: tuple[Tensor, Windows, MergePlan, StructSAM],
) -> None:
    x, windows, plan, _ = made
    tokens = windows.cut(x)
    back = plan.unmerge(plan.merge(tokens))
    for window in range(len(tokens)):
        for slot in range(plan.position.shape[1]):
            members = plan.slot[window] == slot
            mean = tokens[window, members].double().mean(0).float()  # whole numbers: exact
            assert (back[window, members] == mean).all()


@given(made=planned(), seed=st.integers(0, 99))
def test_kept_tokens_pass_bit_for_bit(made: tuple[Tensor, Windows, MergePlan, StructSAM], seed: int) -> None:
    _, _, plan, _ = made
    tokens = torch.randn(*plan.slot.shape, 5, generator=torch.Generator().manual_seed(seed))
    slots = plan.merge(tokens)
    alone = plan.size == 1
    own = torch.gather(tokens, 1, plan.position.long()[..., None].expand(-1, -1, 5))
    assert torch.equal(slots[alone], own[alone])


@given(made=planned())
def test_merging_what_was_unmerged_changes_nothing(
    made: tuple[Tensor, Windows, MergePlan, StructSAM],
) -> None:
    """Exactly, because the sum of a cell of equal whole numbers and its quotient are whole."""
    _, _, plan, _ = made
    slots = torch.arange(plan.position.numel() * 2.0).view(*plan.position.shape, 2)
    assert torch.equal(plan.merge(plan.unmerge(slots)), slots)


@given(made=planned(), seed=st.integers(0, 99))
def test_merging_rows_of_the_map_equals_cutting_windows_first(
    made: tuple[Tensor, Windows, MergePlan, StructSAM], seed: int
) -> None:
    x, windows, plan, _ = made
    batch, height, width = x.shape[:3]
    features = torch.randn(batch, height, width, 5, generator=torch.Generator().manual_seed(seed))
    source = windows.source(features.flatten(0, 2))
    slots = plan.merge_rows(source, windows.rows(batch, CPU))
    assert torch.equal(slots, plan.merge(windows.cut(features)))
    tokens = plan.unmerge(slots).flatten(0, 1)
    rows = windows.token_of_row(batch, CPU)
    assert torch.equal(plan.unmerge_rows(slots, rows), tokens[rows.long()])


@given(made=planned())
def test_a_recorded_plan_merges_like_the_original(
    plain: SimpleNamespace, made: tuple[Tensor, Windows, MergePlan, StructSAM]
) -> None:
    x, windows, plan, method = made
    again = MergePlan.recorded(plan.slot, plan.position, method.reduction)
    plain.check_valid(again)
    assert again.position.shape[1] == method.slots(windows)
    assert torch.equal(again.size, plan.size)
    assert torch.equal(plain.representatives(again), plain.representatives(plan))
    tokens = windows.cut(x)
    assert torch.equal(again.merge(tokens), plan.merge(tokens))
    assert torch.equal(again.unmerge(again.merge(tokens)), plan.unmerge(plan.merge(tokens)))


def test_the_identity_changes_nothing(plain: SimpleNamespace) -> None:
    plan = MergePlan.identity(3, 16, CPU)
    plain.check_valid(plan)
    x = torch.randn(3, 16, 5)
    assert torch.equal(plan.merge(x), x)
    assert torch.equal(plan.unmerge(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_features_keep_their_type(dtype: torch.dtype, photograph_features: Callable[[int], Tensor]) -> None:
    x, windows = photograph_features(20), Windows(20, 20, 14)
    plan = StructSAM(0.55).plan(x, windows)
    slots = plan.merge(windows.cut(x).to(dtype))
    assert slots.dtype == plan.unmerge(slots).dtype == dtype
