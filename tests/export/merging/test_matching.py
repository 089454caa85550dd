"""Bipartite soft matching by itself, token by token; what it counts, and what it is most careful with."""

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Reduction
from structsam_export.merging import ToMe, Windows
from structsam_export.merging.matching import match, removed
from structsam_export.merging.metric import head_mean, snap, unit


@given(percent=st.integers(0, 100), side=st.integers(1, 70))
def test_removed_tokens_are_the_floor_of_the_exact_product(percent: int, side: int) -> None:
    assert removed(percent / 100, side * side) == int(Fraction(percent, 100) * side * side)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1), reduction=st.sampled_from(Reduction))
def test_matching_any_partition_equals_the_token_by_token_reference(
    plain: SimpleNamespace, data: st.DataObject, seed: int, reduction: Reduction
) -> None:
    """Slots, their order, and the values that they hold; protected tokens, padding and blank tokens too."""
    rng, windows = np.random.default_rng(seed), data.draw(st.integers(1, 3))
    sources, destinations = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    protected = data.draw(st.integers(0, 5))
    merged = data.draw(st.integers(1, sources))
    number = sources + destinations + protected
    order = np.stack([rng.permutation(number) for _ in range(windows)])
    padding = rng.random((windows, number)) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    tokens = plain.exact_directions(rng, (windows, number), blank=0.1) * ~padding[..., None]

    x, index = torch.from_numpy(tokens).float(), torch.from_numpy(order).int()
    source, destination, rest = index.split([sources, destinations, protected], 1)
    plan = match(
        x,
        source,
        destination,
        merged,
        reduction,
        protected=rest if protected else None,
        padding=torch.from_numpy(padding).float() if padding.any() else None,
    )
    expected = []
    for window, blank, own in zip(tokens, padding, order.tolist(), strict=True):
        named = [None if none else token for none, token in zip(blank, window, strict=True)]
        split = own[:sources], own[sources : sources + destinations]
        expected.append(plain.match(named, *split, merged, own[sources + destinations :]))
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, x, reduction)


@given(seed=st.integers(0, 2**32 - 1), merged=st.integers(1, 6))
def test_tokens_weigh_by_their_size(plain: SimpleNamespace, seed: int, merged: int) -> None:
    """Of numbers up to 4, a weighted mean of a dozen rounds by less than 1e-5."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(plain.exact_directions(rng, (2, 12))).float()
    size = torch.from_numpy(rng.integers(1, 9, (2, 12))).int()
    index = torch.arange(12, dtype=torch.int32).expand(2, -1)
    plan = match(x, index[:, ::2], index[:, 1::2], merged, Reduction.MEAN, size=size)
    slots = plan.merge(x)
    for window in range(2):
        for slot in range(12 - merged):
            members = plan.slot[window] == slot
            weight = size[window, members].double()
            mean = (x[window, members] * weight[:, None]).sum(0) / weight.sum()
            assert plan.size[window, slot] == weight.sum()
            assert (slots[window, slot] - mean).abs().max() <= 1e-5


@pytest.mark.parametrize("merged", [60, 196])
def test_on_photographs_the_most_similar_tokens_merge(
    photograph_features: Callable[[int], Tensor], merged: int
) -> None:
    """Cosines and their sums round in fp32: those that differ by less than 2e-6 may swap."""
    windows, near = Windows(20, 20, 14), 2e-6
    x = windows.cut(photograph_features(20))
    index = torch.arange(196, dtype=torch.int32).expand(len(x), -1)
    source, destination = index[:, :120], index[:, 120:]
    merged = min(merged, 120)
    plan = match(x, source, destination, merged, Reduction.MEAN)
    direction = torch.nn.functional.normalize(x.double(), dim=2, eps=1e-6)
    similarity = direction[:, :120] @ direction[:, 120:].transpose(1, 2)
    best = similarity.amax(2)
    target = plan.slot[:, :120] - (120 - merged)  # below 0 where a source stays
    moved = target >= 0
    assert (moved.sum(1) == merged).all()
    given_to = similarity.gather(2, target.clamp(min=0).long()[..., None])[..., 0]
    assert (given_to[moved] >= best[moved] - near).all()
    for window in range(len(x)):
        if merged < 120:
            assert best[window][moved[window]].min() >= best[window][~moved[window]].max() - near


def test_zeros_stay_zero_and_lengths_are_ignored() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6e8, 8e8], [1e-30, 0.0]])
    assert torch.allclose(unit(x)[[0, 2]], torch.tensor([[0.6, 0.8], [-0.6, 0.8]]), rtol=0, atol=1e-7)
    assert torch.equal(unit(x)[1], torch.zeros(2))
    assert unit(x)[3].norm() < 1e-20, "below what counts as a length, a token is like nothing"


def test_snapping_changes_a_score_by_at_most_half_a_millionth_and_ties_close_scores() -> None:
    score = torch.linspace(-2, 2, 10_001)
    assert (snap(score) - score).abs().max() <= 2**-21
    assert torch.equal(snap(torch.tensor([1.0, 1 - 2**-24, 1 + 2**-23])), torch.ones(3))


def test_the_mean_over_heads_is_taken_channel_by_channel() -> None:
    x = torch.randint(-9, 10, (2, 3, 3, 12)).float()
    expected = sum(x[..., 4 * head : 4 * head + 4] for head in range(3)) / 3
    assert torch.allclose(head_mean(x, 3), expected, rtol=0, atol=1e-6)
    assert head_mean(x, 1) is x


def test_nothing_is_removed_below_one_token() -> None:
    """int(r N) of a small window."""
    windows = Windows(4, 4, 4)
    assert ToMe(0.06).slots(windows) == 16
    assert ToMe(0.07).slots(windows) == 15
