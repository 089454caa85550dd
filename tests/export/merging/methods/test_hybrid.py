"""The hybrid against flatness and matching token by token; what `spread` does; where it meets the others."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Border, Destination, Flatness, Gradient, Reduction, Scope
from structsam_export.merging import Bipartite, Hybrid, StructSAM, Windows

GLOBAL, WINDOW = Windows(64, 64, 64), Windows(64, 64, 14)


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    spread=st.sampled_from([1.0, 1.15, 2.0, 9.0]),
    gradient=st.sampled_from(Gradient),
    scope=st.sampled_from(Scope),
    border=st.sampled_from(Border),
    flatness=st.sampled_from([Flatness.MAX, Flatness.VARIANCE, Flatness.COSINE]),
    destination=st.sampled_from([Destination.MIN, Destination.MAX]),
    reduction=st.sampled_from(Reduction),
)
def test_tokens_of_the_flattest_cells_merge_into_their_lowest_energy_tokens(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    spread: float,
    gradient: Gradient,
    scope: Scope,
    border: Border,
    flatness: Flatness,
    destination: Destination,
    reduction: Reduction,
) -> None:
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    method = Hybrid(percent / 100, 2, spread, gradient, scope, border, flatness, destination, reduction)
    plan, merged = method.plan(x, windows), percent * side * side // 100
    energies = plain.energies(images, side, gradient, scope, border)
    features = [one for image in images for one in plain.cut_windows(image, side, padding=None)]
    expected = []
    for tokens, energy, values in zip(plain.tokens_of(images, side), energies, features, strict=True):
        order = plain.cells_in_order(energy, values, side, method)
        chosen, others, protected = [], [], []
        for number, cell in enumerate(order):
            place = [row * side + column for row, column in cell]
            if number >= method.candidates(windows):
                protected += place
                continue
            known = [energy[token] for token in cell]
            member = known.index((max if destination is Destination.MAX else min)(known))
            chosen.append(place[member])
            others += place[member + 1 :] + place[:member]  # sources go round the cell
        expected.append(plain.match(tokens, others, chosen, merged, protected))
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


@given(
    percent=st.integers(0, 75),
    spread=st.floats(1, 5),
    side=st.sampled_from([2, 4, 6, 14, 32, 64]),
)
def test_candidate_cells_are_enough_and_at_most_all(percent: int, spread: float, side: int) -> None:
    windows, method = Windows(side, side, side), Hybrid(percent / 100, spread=spread)
    cells, needed = side * side // 4, StructSAM(percent / 100).merged(windows)
    assert needed <= method.candidates(windows) <= cells
    assert method.candidates(windows) in (cells, -(-round(spread * needed, 6) // 1))
    assert windows.tokens - method.slots(windows) == percent * side * side // 100


def test_counts_at_1024_pixels_and_rate_055() -> None:
    """1.15 of the 751 and 36 cells that Algorithm 1 collapses; as many tokens removed as by matching."""
    method = Hybrid(0.55)
    for windows, candidates, removed in ((GLOBAL, 864, 2252), (WINDOW, 42, 107)):
        assert method.candidates(windows) == candidates
        assert windows.tokens - method.slots(windows) == removed


def test_with_every_cell_it_is_the_authors_matching(
    plain: SimpleNamespace, photograph_features: Callable[[int], Tensor]
) -> None:
    """But for the order of slots. Noise, so that no two similarities are equal."""
    x = photograph_features(14)
    x = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    windows = Windows(14, 14, 14)
    own = Hybrid(0.55, spread=100.0, reduction=Reduction.MEAN).plan(x, windows)
    theirs = Bipartite(0.55).plan(x, windows)
    assert torch.equal(plain.representatives(own), plain.representatives(theirs))


@pytest.mark.parametrize("flatness", Flatness)
def test_with_the_fewest_cells_it_protects_the_cells_of_algorithm_1(
    photograph_features: Callable[[int], Tensor], flatness: Flatness
) -> None:
    """At 108 of 196 tokens, which is 36 whole cells: every source merges, as in Algorithm 1."""
    x, windows, rate = photograph_features(20), Windows(20, 20, 14), 108 / 196
    own = Hybrid(rate, spread=1.0, flatness=flatness).plan(x, windows)
    cells = StructSAM(rate, flatness=flatness).plan(x, windows)
    protected = [set(kept.tolist()) for kept in cells.rule.kept]
    alone = [set(position[size == 1].tolist()) for position, size in zip(own.position, own.size, strict=True)]
    assert all(kept <= single for kept, single in zip(protected, alone, strict=True))
    assert own.position.shape == cells.position.shape
