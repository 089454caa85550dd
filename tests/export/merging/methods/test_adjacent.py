"""Matching with what is near, token by token; how far tokens go; where it meets ToMeSD."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Destination, Reduction
from structsam_export.merging import Adjacent, ToMeSD, Windows

Token = TypeVar("Token", int, Tensor)


def cell_of(token: Token, side: int, cell: int) -> tuple[Token, Token]:
    """Row and column of a token's cell, or of many tokens'."""
    return token // side // cell, token % side // cell


def around(token: int, side: int, cell: int, chosen: list[int]) -> list[int]:
    """Destinations of a token's own cell and of those beside it, in the order in which equals count."""
    row, column = cell_of(token, side, cell)
    places = [cell_of(other, side, cell) for other in chosen]
    near = [
        other
        for other, (down, across) in zip(chosen, places, strict=True)
        if abs(down - row) <= 1 and abs(across - column) <= 1
    ]
    return sorted(near, key=lambda other: cell_of(other, side, cell) != (row, column))  # stable: raster order


def matched(
    plain: SimpleNamespace, tokens: list[Any], cells: list[list[int]], chosen: list[int], merged: int
) -> list[list[int]]:
    """The slots of one window: `merged` sources go to the most like of what is near them."""
    if not merged:
        return [[token] for token in range(len(tokens))]
    side, cell = math.isqrt(len(tokens)), math.isqrt(len(cells[0]))
    target: dict[int, int] = {}
    score: dict[int, float] = {}
    for token in (token for members in cells for token in members if token not in chosen):
        near = around(token, side, cell, chosen)
        alike = [plain.cosine(tokens[token], tokens[other]) for other in near]
        score[token], target[token] = max(alike), near[alike.index(max(alike))]
    order = sorted(score, key=lambda token: -score[token]) if merged < len(score) else list(score)
    received = [[token for token in order[:merged] if target[token] == other] for other in chosen]
    return [
        *([token] for token in order[merged:]),
        *([other, *members] for other, members in zip(chosen, received, strict=True)),
    ]


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    cell=st.sampled_from([2, 2, 7]),
    destination=st.sampled_from([Destination.RANDOM, Destination.FIRST]),
    reduction=st.sampled_from(Reduction),
    seed=st.integers(0, 9),
)
def test_tokens_merge_into_the_most_similar_adjacent_destination(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    cell: int,
    destination: Destination,
    reduction: Reduction,
    seed: int,
) -> None:
    """Windows of one cell, of four and of more, padding, blank tokens and ties."""
    images, side = data.draw(plain.exact_maps(sides=(2, 4, 8, 14) if cell == 2 else (7, 14, 21)))
    x, windows = plain.on_grid(images, side)
    method = Adjacent(percent / 100, cell, destination, reduction, seed=seed)
    plan, cells, merged = method.plan(x, windows), plain.cells_of(side, cell), percent * side * side // 100
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(cell**2, (len(cells),), generator=generator).tolist()
    member = [0] * len(cells) if destination is Destination.FIRST else drawn
    chosen = [tokens[place] for tokens, place in zip(cells, member, strict=True)]
    expected = [matched(plain, tokens, cells, chosen, merged) for tokens in plain.tokens_of(images, side)]
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


@pytest.mark.parametrize("cell", [2, 7])
def test_no_token_goes_further_than_the_next_cell(
    plain: SimpleNamespace, photograph_features: Callable[[int], Tensor], cell: int
) -> None:
    x, windows = photograph_features(28), Windows(28, 28, 28)
    standing = plain.representatives(Adjacent(0.7, cell).plan(x, windows))
    ends = zip(cell_of(standing, 28, cell), cell_of(torch.arange(28 * 28), 28, cell), strict=True)
    assert [int((there - here).abs().max()) for there, here in ends] == [1, 1]


@pytest.mark.parametrize("size", [20, 28])
@pytest.mark.parametrize("seed", range(4))
def test_identical_tokens_stay_in_their_cell(plain: SimpleNamespace, size: int, seed: int) -> None:
    """Features that no cosine is exact of, where products differ in their last bit from column to column."""
    flat = torch.randn(64, generator=torch.Generator().manual_seed(seed)).expand(2, size, size, 64)
    standing = plain.representatives(Adjacent(0.75, seed=seed).plan(flat, Windows(size, size, 14)))
    for there, here in zip(cell_of(standing, 14, 2), cell_of(torch.arange(14 * 14), 14, 2), strict=True):
        assert torch.equal(there, here.expand_as(there))


def test_with_all_cells_adjacent_it_equals_tomesd(plain: SimpleNamespace) -> None:
    """2 x 2 cells; noise, so that no two similarities are equal."""
    x, windows = torch.randn(3, 8, 8, 16, generator=torch.Generator().manual_seed(0)), Windows(8, 8, 4)
    for rate in (0.25, 0.55, 0.75):
        own, theirs = (method(rate, seed=5).plan(x, windows) for method in (Adjacent, ToMeSD))
        assert torch.equal(plain.representatives(own), plain.representatives(theirs))


def test_its_attention_is_proportional_unless_that_is_switched_off() -> None:
    assert Adjacent(0.55).proportional
    assert not Adjacent(0.55, proportional=False).proportional
    assert not ToMeSD(0.55).proportional
