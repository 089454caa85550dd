"""The bipartite variant against the plain matching onto the calmest token of every cell, exactly."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Border, Destination, Gradient, Reduction, Scope
from structsam_export.merging import Bipartite


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    gradient=st.sampled_from(Gradient),
    destination=st.sampled_from([Destination.MIN, Destination.MAX]),
    reduction=st.sampled_from(Reduction),
    scope=st.sampled_from(Scope),
    border=st.sampled_from(Border),
)
def test_tokens_merge_into_the_lowest_energy_token_of_any_cell(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    gradient: Gradient,
    destination: Destination,
    reduction: Reduction,
    scope: Scope,
    border: Border,
) -> None:
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    method = Bipartite(percent / 100, 2, gradient, scope, border, destination, reduction)
    plan = method.plan(x, windows)
    merged = percent * side * side // 100
    expected = []
    energies = plain.energies(images, side, gradient, scope, border)
    for tokens, energy in zip(plain.tokens_of(images, side), energies, strict=True):
        chosen, others = [], []
        for cell in plain.cells_of(side, 2):
            known = [energy[divmod(token, side)] for token in cell]
            member = known.index((max if destination is Destination.MAX else min)(known))
            chosen.append(cell[member])
            others += cell[member + 1 :] + cell[:member]  # sources go round the cell
        expected.append(plain.match(tokens, others, chosen, merged))
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


def test_cells_may_be_larger(plain: SimpleNamespace) -> None:
    """49 tokens of a cell, one of them a destination."""
    images = plain.exact_directions(np.random.default_rng(0), (1, 14, 14))
    x, windows = plain.on_grid(images, 14)
    plan = Bipartite(0.9, cell=7).plan(x, windows)
    plain.check_valid(plan)
    cells = [{position // 14 // 7 * 2 + position % 14 // 7} for position in plan.position[0, -4:].tolist()]
    assert cells == [{0}, {1}, {2}, {3}]
    assert plan.position.shape[1] == 196 - 176
