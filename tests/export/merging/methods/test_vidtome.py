"""VidToMe for one image: one sub-grid, or random tokens, take the others; against the plain matching."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Destination, Reduction
from structsam_export.merging import VidToMe, Windows


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    destination=st.sampled_from([Destination.LATTICE, Destination.RANDOM]),
    reduction=st.sampled_from(Reduction),
    seed=st.integers(0, 9),
)
def test_plan_is_the_plain_matching(
    plain: SimpleNamespace,
    data: st.DataObject,
    percent: int,
    destination: Destination,
    reduction: Reduction,
    seed: int,
) -> None:
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    method = VidToMe(percent / 100, destination=destination, reduction=reduction, seed=seed)
    plan = method.plan(x, windows)
    chosen = method.destinations(windows)
    others = [token for token in range(side * side) if token not in chosen]
    merged = percent * side * side // 100
    expected = [plain.match(tokens, others, chosen, merged) for tokens in plain.tokens_of(images, side)]
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


@pytest.mark.parametrize(("side", "cell"), [(14, 2), (64, 2), (14, 7)])
def test_a_lattice_is_the_same_place_of_every_cell(side: int, cell: int) -> None:
    windows, phases = Windows(64, 64, side), set()
    for seed in range(40 * cell):
        chosen = VidToMe(0.5, cell, seed=seed).destinations(windows)
        assert chosen == sorted(chosen)
        phase = {(token // side % cell, token % side % cell) for token in chosen}
        assert len(phase) == 1
        assert len(set(chosen)) == (side // cell) ** 2
        phases |= phase
    assert len(phases) == cell * cell, "every sub-grid has its chance"


def test_random_destinations_are_a_quarter_of_the_tokens_wherever_they_lie() -> None:
    windows = Windows(64, 64, 14)
    drawn = [
        VidToMe(0.5, destination=Destination.RANDOM, seed=seed).destinations(windows) for seed in range(5)
    ]
    for chosen in drawn:
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 49
        assert 0 <= chosen[0] <= chosen[-1] < 196
        cells = {(token // 14 // 2, token % 14 // 2) for token in chosen}
        assert len(cells) < 49, "some cells have two, and others none"
    assert len({tuple(chosen) for chosen in drawn}) == 5


def test_the_destination_keeps_its_value_unless_asked() -> None:
    assert VidToMe(0.5).reduction is Reduction.REPLACE
