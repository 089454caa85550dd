"""Matching with what is near, token by token; how far tokens go; where it meets ToMeSD."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Destination, Reduction
from structsam_export.merging import Adjacent, ToMeSD, Windows


def cell_of(token: int, side: int) -> tuple[int, int]:
    """Row and column of a token's cell of 2 x 2."""
    return token // side // 2, token % side // 2


def around(token: int, side: int, chosen: list[int]) -> list[int]:
    """Destinations of a token's own cell and of those beside it, in the order in which equals count."""
    row, column = cell_of(token, side)
    places = [cell_of(other, side) for other in chosen]
    near = [
        other
        for other, (down, across) in zip(chosen, places, strict=True)
        if abs(down - row) <= 1 and abs(across - column) <= 1
    ]
    return sorted(near, key=lambda other: cell_of(other, side) != (row, column))  # stable: raster order


def matched(
    plain: SimpleNamespace, tokens: list[Any], cells: list[list[int]], chosen: list[int], merged: int
) -> list[list[int]]:
    """The slots of one window: `merged` sources go to the most like of what is near them."""
    if not merged:
        return [[token] for token in range(len(tokens))]
    side = int(len(tokens) ** 0.5)
    target: dict[int, int] = {}
    score: dict[int, float] = {}
    for token in (token for cell in cells for token in cell if token not in chosen):
        near = around(token, side, chosen)
        alike = [plain.cosine(tokens[token], tokens[other]) for other in near]
        score[token], target[token] = max(alike), near[alike.index(max(alike))]
    order = sorted(score, key=lambda token: -score[token]) if merged < len(score) else list(score)
    received = [[token for token in order[:merged] if target[token] == other] for other in chosen]
    return [
        *([token] for token in order[merged:]),
        *([other, *members] for other, members in zip(chosen, received, strict=True)),
    ]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    percent=st.integers(0, 75),
    destination=st.sampled_from([Destination.RANDOM, Destination.FIRST]),
    reduction=st.sampled_from(Reduction),
    seed=st.integers(0, 9),
)
def test_tokens_merge_into_the_most_like_of_what_is_near(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    destination: Destination,
    reduction: Reduction,
    seed: int,
) -> None:
    """Windows of one cell and of 16, padding, blank tokens and ties."""
    images, side = data.draw(plain.exact_maps(sides=(2, 4, 8)))
    x, windows = plain.on_grid(images, side)
    method = Adjacent(percent / 100, destination=destination, reduction=reduction, seed=seed)
    plan, cells, merged = method.plan(x, windows), plain.cells_of(side, 2), percent * side * side // 100
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(4, (len(cells),), generator=generator).tolist()
    member = [0] * len(cells) if destination is Destination.FIRST else drawn
    chosen = [cell[place] for cell, place in zip(cells, member, strict=True)]
    expected = [matched(plain, tokens, cells, chosen, merged) for tokens in plain.tokens_of(images, side)]
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


@pytest.mark.parametrize("cell", [2, 7])
def test_no_token_goes_further_than_the_next_cell(
    photograph_features: Callable[[int], Tensor], cell: int
) -> None:
    x, windows = photograph_features(28), Windows(28, 28, 28)
    plan = Adjacent(0.7, cell).plan(x, windows)
    standing = plan.position.gather(1, plan.slot.long())
    own = torch.arange(28 * 28)
    steps = [
        (where // cell - place // cell).abs()
        for where, place in ((standing // 28, own // 28), (standing % 28, own % 28))
    ]
    assert [int(step.max()) for step in steps] == [1, 1]


def test_where_every_cell_is_near_it_is_tomesd(plain: SimpleNamespace) -> None:
    """2 x 2 cells; noise, so that no two similarities are equal."""
    x, windows = torch.randn(3, 8, 8, 16, generator=torch.Generator().manual_seed(0)), Windows(8, 8, 4)
    for rate in (0.25, 0.55, 0.75):
        own, theirs = (method(rate, seed=5).plan(x, windows) for method in (Adjacent, ToMeSD))
        assert torch.equal(plain.representatives(own), plain.representatives(theirs))


def test_its_attention_is_proportional_unless_that_is_switched_off() -> None:
    assert Adjacent(0.55).proportional
    assert not Adjacent(0.55, proportional=False).proportional
    assert not ToMeSD(0.55).proportional
