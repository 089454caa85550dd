"""PiToMe: its energy, its ranks, and the matching of one half of the redundant tokens with the other."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Reduction
from structsam_export.merging import PiToMe, Windows

MARGINS = (-1.0, 0.0, 0.5, 0.75)


def check_equals_reference(
    plain: SimpleNamespace, data: st.DataObject, method: PiToMe, energies: Callable[..., list[list[float]]]
) -> None:
    """The same slots in the same order, given the energies [B', N] of a map."""
    images, side = data.draw(plain.exact_maps(sides=(2, 4)))
    x, windows = plain.on_grid(images, side)
    plan = method.plan(x, windows)
    merged = method.removed(windows)
    expected = []
    tokens = plain.tokens_of(images, side)
    for window, energy in zip(tokens, energies(tokens, x, windows), strict=True):
        order = sorted(range(side * side), key=lambda token: -energy[token])
        redundant, protected = order[: 2 * merged], order[2 * merged :]
        expected.append(plain.match(window, redundant[::2], redundant[1::2], merged, protected))
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), method.reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged


@given(data=st.data(), percent=st.integers(0, 75), reduction=st.sampled_from(Reduction))
def test_half_of_the_most_redundant_tokens_merge_into_the_other_half(
    plain: SimpleNamespace, data: st.DataObject, percent: int, reduction: Reduction
) -> None:
    """At a margin of -1 no exponential is taken, so that energies, and every tie among them, are exact."""

    def exact(tokens: list[list[Tensor]], *_: object) -> list[list[float]]:
        return [[sum(plain.cosine(a, b) + 1 for b in window) for a in window] for window in tokens]

    method = PiToMe(percent / 100, margin=-1.0, reduction=reduction)
    check_equals_reference(plain, data, method, exact)


@given(data=st.data(), percent=st.integers(1, 60), margin=st.sampled_from(MARGINS))
def test_ranks_follow_the_energy_at_any_margin(
    plain: SimpleNamespace, data: st.DataObject, percent: int, margin: float
) -> None:
    method = PiToMe(percent / 100, margin=margin)

    def own(_: object, x: Tensor, windows: Windows) -> list[list[float]]:
        padding = windows.padding(len(x), x.device)
        energies: list[list[float]] = method.energy(windows.cut(x), windows.side, padding).tolist()
        return energies

    check_equals_reference(plain, data, method, own)


@given(data=st.data(), margin=st.sampled_from(MARGINS))
def test_energy_is_the_mean_of_elu_of_cosine_less_margin(
    plain: SimpleNamespace, data: st.DataObject, margin: float
) -> None:
    """A few roundings of fp32 to numbers of order one, and half of 2^-20 for snapping: 1e-6."""
    images, side = data.draw(plain.exact_maps(sides=(2, 3, 4)))
    x, windows = plain.on_grid(images, side)
    made = PiToMe(0.5, margin=margin).energy(windows.cut(x), side, windows.padding(len(x), x.device))
    for window, energy in zip(plain.tokens_of(images, side), made, strict=True):
        for token, value in zip(window, energy.tolist(), strict=True):
            terms = [plain.cosine(token, other) - margin for other in window]
            mean = math.fsum(t if t > 0 else math.expm1(t) for t in terms) / len(terms)
            assert abs(value - mean) <= 1e-6


@pytest.mark.parametrize("grid", [20, 28])
def test_identical_tokens_have_the_same_energy_bit_for_bit(
    photograph_features: Callable[[int], Tensor], grid: int
) -> None:
    """Bars beside a photograph: their ranks are those of their indices."""
    x = photograph_features(grid)
    x[:, : grid // 4] = 3.0
    energy = PiToMe(0.5).energy(x.flatten(1, 2), grid)
    bars = energy[:, : grid * (grid // 4)]
    assert torch.equal(bars, bars[:, :1].expand_as(bars))
