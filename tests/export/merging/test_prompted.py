"""Prompt-aware merging against plain counting: which windows, which cells, and the way back."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Selection
from structsam_export.merging import (
    MergePlan,
    PromptedWindows,
    SplitWindows,
    StructSAM,
    Windows,
    unmerge_groups,
)
from structsam_export.merging.cells import largest_first, lexicographic
from structsam_export.merging.prompted import BACKGROUND, LEVELS, PROMPT

CPU = torch.device("cpu")


@st.composite
def prompted(draw: st.DrawFn, sides: tuple[int, ...] = (2, 4, 6)) -> tuple[Tensor, SplitWindows]:
    """Whole features [B, H, W, C] of a map of several windows, and priors with many equal values or few."""
    side = draw(st.sampled_from(sides))
    batch = draw(st.integers(1, 3))
    height, width = draw(st.tuples(*[st.integers(1, 3 * side)] * 2).filter(lambda size: max(size) > side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = torch.from_numpy(rng.integers(0, 5, (batch, height, width, 3))).float()
    values = draw(st.sampled_from([[0.0], [0.0, 1.0], [0.0, 0.001, 0.25, 0.5, 1.0], [1.0]]))
    prior = torch.from_numpy(rng.choice(values, (batch, height, width))).float()
    windows = Windows(height, width, side)
    return images, SplitWindows(height, width, side, prior, draw(st.integers(1, windows.per_image - 1)))


def level_of(prior: float) -> int:
    """Steps of 1/128, rounded up."""
    return int(np.ceil(prior * LEVELS))


@given(data=st.data(), count=st.integers(1, 60), high=st.sampled_from([1, 3, 128, 25088]))
def test_lexicographic_sorts_by_two_keys(data: st.DataObject, count: int, high: int) -> None:
    """Up to sums of 196 tokens in steps of 1/128."""
    first = data.draw(st.lists(st.integers(-high, high), min_size=count, max_size=count))
    place = data.draw(st.permutations(range(count)))
    score = lexicographic(torch.tensor([first]).float(), torch.tensor([place], dtype=torch.int32))
    expected = sorted(range(count), key=lambda index: (-first[index], place[index]))
    assert largest_first(score).tolist() == [expected]
    assert len(set(score[0].tolist())) == count, "no two are equal, so that no rule for ties is needed"


@given(case=prompted())
def test_the_windows_with_the_most_prior_are_chosen(
    plain: SimpleNamespace, case: tuple[Tensor, SplitWindows]
) -> None:
    _, windows = case
    most, others = windows.groups
    assert (most.group, others.group) == (PROMPT, BACKGROUND)
    assert most.per_image + others.per_image == windows.per_image
    for image, prior in enumerate(windows.prior.numpy()):
        cut = plain.cut_windows(prior, windows.side, padding=0.0)
        total = [sum(map(level_of, window.values())) for window in cut]
        order = sorted(range(len(total)), key=lambda index: -total[index])  # of equal ones the first
        assert most.chosen[image].tolist() == order[: windows.number]
        assert others.chosen[image].tolist() == order[windows.number :]


@given(case=prompted(), rates=st.tuples(*[st.integers(0, 75)] * 2))
def test_every_token_of_a_group_has_one_slot_and_is_unmerged(
    plain: SimpleNamespace, case: tuple[Tensor, SplitWindows], rates: tuple[int, int]
) -> None:
    """The map that comes back is the one that every window unmerges by itself."""
    x, windows = case
    method = StructSAM(rates[0] / 100, prompt_windows=windows.number, rate_prompt=rates[1] / 100)
    plans = [method.plan(x, group) for group in windows.groups]
    source, slots = windows.source(x.flatten(0, 2)), []
    expected = torch.full_like(source, torch.nan)  # so that a row that no window holds would show
    for plan, group, rate in zip(plans, windows.groups, reversed(rates), strict=True):
        plain.check_valid(plan)
        assert plan.slot.shape == (len(x) * group.per_image, windows.tokens)
        assert plan.position.shape[1] == method.slots(group) == StructSAM(rate / 100).slots(windows)
        rows = group.rows(len(x), CPU)
        slots.append(plan.merge_rows(source, rows))
        assert torch.equal(slots[-1], plan.merge(group.cut(x)))
        expected[rows.long()] = plan.unmerge(slots[-1])
    back = unmerge_groups(plans, slots, windows.token_of_row(len(x), CPU))
    assert torch.equal(back, expected[-len(back) :])


@given(case=prompted(), percent=st.integers(1, 75))
def test_cells_under_a_prior_merge_last_the_flattest_first(
    plain: SimpleNamespace, case: tuple[Tensor, SplitWindows], percent: int
) -> None:
    """In the same order as sorting by three keys in turn."""
    x, split = case
    method = StructSAM(percent / 100)
    windows = PromptedWindows(split.height, split.width, split.side, split.prior)
    plan = method.plan(x, windows)
    energies = plain.energies(x.long().numpy(), windows.side, method.gradient)
    priors = [
        window for prior in windows.prior.numpy() for window in plain.cut_windows(prior, windows.side, 0.0)
    ]
    cells = [[divmod(t, windows.side) for t in cell] for cell in plain.cells_of(windows.side, 2)]
    for own, energy, prior in zip(plan.rule.pooled.tolist(), energies, priors, strict=True):
        order = sorted(
            cells,
            key=lambda cell: (max(level_of(prior[t]) for t in cell), max(energy[t] for t in cell)),
        )
        expected = [[row * windows.side + column for row, column in cell] for cell in order]
        assert own == expected[: len(own)]


def same(one: MergePlan, other: MergePlan) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("slot", "position", "size"))


@given(
    case=prompted(),
    percent=st.integers(0, 75),
    selection=st.sampled_from(Selection),
    value=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_prior_that_is_the_same_everywhere_changes_no_plan(
    case: tuple[Tensor, SplitWindows], percent: int, selection: Selection, value: float
) -> None:
    """Of windows without padding, which has no prior; without prompts of any."""
    x, windows = case
    if value:
        repeat = -(-2 * windows.side // min(x.shape[1:3]))
        x = x.repeat(1, repeat, repeat, 1)[:, : 2 * windows.side, : 2 * windows.side]
    height, width = x.shape[1:3]
    even = PromptedWindows(height, width, windows.side, torch.full(x.shape[:3], value))
    method = StructSAM(percent / 100, selection=selection)
    assert same(method.plan(x, even), method.plan(x, Windows(height, width, windows.side)))


@pytest.mark.parametrize("rate", [0.35, 0.55, 0.7])
def test_a_box_keeps_more_tokens_inside_it(rate: float, photograph_features: Callable[[int], Tensor]) -> None:
    """On photographs, in global blocks and in windows that all merge alike."""
    x = photograph_features(28)
    prior = torch.zeros(x.shape[:3])
    prior[:, 8:18, 9:20] = 1
    inside = prior > 0
    for side in (28, 14):
        kept = []
        for windows in (Windows(28, 28, side), PromptedWindows(28, 28, side, prior)):
            plan = StructSAM(rate).plan(x, windows)
            alone = plan.size.gather(1, plan.slot.long()).flatten() == 1
            on_map = alone[windows.token_of_row(len(x), CPU).long()].view(inside.shape)
            kept.append([int((on_map & inside)[image].sum()) for image in range(len(x))])
            assert on_map.sum() == alone.sum(), "as many tokens in all"
        assert all(more > fewer for fewer, more in zip(*kept, strict=True)), kept


def test_a_prompt_smaller_than_a_token_counts() -> None:
    prior = torch.zeros(1, 28, 28)
    prior[0, 20, 20] = 1 / 256  # one pixel of a patch of 16 x 16
    assert SplitWindows(28, 28, 14, prior, 1).groups[0].chosen.tolist() == [[3]]


def test_sums_and_places_stay_below_24_bits_at_the_largest_image_size() -> None:
    """4096 pixels: 361 windows, 16384 cells of the global one."""
    assert LEVELS * 196 * 361 + 361 < 2**24
    assert LEVELS * 16384 + 16384 < 2**24
