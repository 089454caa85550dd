"""ALGM: the score of its cells, its first stage as StructSAM's with that score, and both stages exactly."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Reduction
from structsam_export.merging import ALGM, StructSAM, Windows
from structsam_export.merging.cells import cell_tokens
from structsam_export.merging.flatness import likeness
from structsam_export.merging.reduction import CellMean

PERCENT = st.integers(0, 75)
Slots = list[list[int]]


def collapsed(plain: SimpleNamespace, tokens: list[Any], side: int, merged: int) -> Slots:
    """Cells that merge, onto their last token, in raster order; then the tokens of the others."""
    cells = plain.cells_of(side, 2)
    score = [plain.mean_cosine([tokens[token] for token in cell]) for cell in cells]
    first = sorted(range(len(cells)), key=lambda cell: -score[cell])[:merged]  # stable
    together = [[cells[cell][-1], *cells[cell][:-1]] for cell in sorted(first)]
    return together + [[token] for cell in range(len(cells)) if cell not in first for token in cells[cell]]


@given(data=st.data())
def test_likeness_is_the_mean_of_all_pairwise_cosines(plain: SimpleNamespace, data: st.DataObject) -> None:
    """Sixths of sixteenths, rounded once by fp32 and once to 2^-20."""
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    cells = cell_tokens(side, 2, torch.device("cpu"))
    score = likeness(windows.cut(x)[:, cells.long()])
    for window, own in zip(plain.tokens_of(images, side), score.tolist(), strict=True):
        for cell, value in zip(cells.tolist(), own, strict=True):
            assert abs(value - plain.mean_cosine([window[token] for token in cell])) <= 2**-20


@pytest.mark.parametrize("cell", [2, 7])
def test_likeness_of_photographs(photograph_features: Callable[[int], Tensor], cell: int) -> None:
    """Sums of s^2 unit vectors, less s^2, in fp32: 1e-6. The first photograph has no bars of zeros."""
    cells = cell_tokens(14, cell, torch.device("cpu"))
    members = photograph_features(14)[:1].flatten(1, 2)[:, cells.long()]  # [1, G, m, 12]
    direction = torch.nn.functional.normalize(members.double(), dim=3)
    cosine = direction @ direction.transpose(2, 3)
    number = cell * cell
    first, second = torch.triu_indices(number, number, 1)
    pairs = cosine[..., first, second]
    assert (likeness(members) - pairs.mean(-1)).abs().max() <= 1e-6


@given(data=st.data(), percent=PERCENT, reduction=st.sampled_from(Reduction))
def test_alone_the_first_stage_is_structsam_with_another_score(
    plain: SimpleNamespace, data: st.DataObject, percent: int, reduction: Reduction
) -> None:
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    method, other = ALGM(percent / 100, local=1.0, reduction=reduction), StructSAM(percent / 100)
    plan, same = method.plan(x, windows), other.plan(x, windows)
    assert method.merged(windows) == other.merged(windows)
    assert method.slots(windows) == other.slots(windows) == plan.position.shape[1]
    assert torch.equal(plan.size, same.size)
    if percent and reduction is Reduction.MEAN:
        assert isinstance(plan.rule, CellMean)
    merged = other.merged(windows)
    tokens = plain.tokens_of(images, side)
    raster = [[token] for token in range(side * side)]
    plain.check_valid(plan)
    plain.check_slots(
        plan, [collapsed(plain, window, side, merged) if merged else raster for window in tokens]
    )
    plain.check_merges(plan, windows.cut(x), reduction)


def blocky(rng: np.random.Generator, plain: SimpleNamespace, shape: tuple[int, ...], mixed: float) -> Any:
    """Maps of cells that are one token four times, so that their means are exact, and a share of others."""
    batch, height, width = shape
    cells = plain.exact_directions(rng, (batch, -(-height // 2), -(-width // 2)), blank=0.1)
    other = plain.exact_directions(rng, (batch, *(2 * side for side in cells.shape[1:3])), blank=0.1)
    whole = cells.repeat(2, 1).repeat(2, 2)
    keep = (rng.random(cells.shape[:3]) >= mixed).repeat(2, 1).repeat(2, 2)
    return np.where(keep[..., None], whole, other)[:, :height, :width]


@given(
    data=st.data(),
    percent=PERCENT,
    local=st.sampled_from([0.0, 0.5, 0.8]),
    mixed=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 2**32 - 1),
    reduction=st.sampled_from(Reduction),
)
def test_then_even_slots_merge_into_odd_ones(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    local: float,
    mixed: float,
    seed: int,
    reduction: Reduction,
) -> None:
    side = data.draw(st.sampled_from([4, 6]))
    shape = data.draw(st.tuples(st.integers(1, 2), *[st.integers(1, side).map(lambda n: 2 * n)] * 2))
    images = blocky(np.random.default_rng(seed), plain, shape, mixed)
    x, windows = plain.on_grid(images, side)
    method = ALGM(percent / 100, local=local, reduction=reduction)
    plan, expected = method.plan(x, windows), []
    for tokens in plain.tokens_of(images, side):
        first = [[token] for token in range(side * side)]
        if method.merged(windows):
            first = collapsed(plain, tokens, side, method.merged(windows))
        for slot in first:  # all equal, so that their mean is any of them
            assume(len({None if tokens[token] is None else tuple(tokens[token]) for token in slot}) == 1)
        means, number = [tokens[slot[0]] for slot in first], list(range(len(first)))
        second = plain.match(means, number[::2], number[1::2], method.matched(windows))
        expected.append([[token for place in slot for token in first[place]] for slot in second])
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)


@given(
    percent=PERCENT,
    side=st.sampled_from([2, 4, 10, 14, 64, 70]),
    local=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
)
def test_the_first_stage_removes_its_share_and_leaves_what_the_second_can_remove(
    percent: int, side: int, local: float
) -> None:
    windows, method = Windows(side, side, side), ALGM(percent / 100, local=local)
    tokens, wanted = side * side, percent * side * side // 100
    merged, matched = method.merged(windows), method.matched(windows)
    assert method.slots(windows) == tokens - wanted
    assert 3 * merged + matched == wanted
    assert 0 <= matched <= (tokens - 3 * merged) // 2
    share = int(local * wanted / 3)
    assert merged >= share
    if merged > share:  # one less would leave too many
        fewer = merged - 1
        assert wanted - 3 * fewer > (tokens - 3 * fewer) // 2


def test_counts_of_both_stages_at_1024_pixels_and_rate_055() -> None:
    method = ALGM(0.55)
    for windows, merged, matched in ((Windows(64, 64, 64), 375, 1127), (Windows(64, 64, 14), 17, 56)):
        assert (method.merged(windows), method.matched(windows)) == (merged, matched)
