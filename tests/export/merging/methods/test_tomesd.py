"""ToMeSD against the package of its authors, seed for seed, and token by token where that cannot go."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor

from structsam_export.choices import Destination, Reduction
from structsam_export.merging import MergePlan, ToMeSD, Windows


def features(side: int, images: int = 2, seed: int = 0) -> Tensor:
    """[B, side, side, 16] without ties: the package breaks them by a sort that is not stable."""
    return torch.randn(images, side, side, 16, generator=torch.Generator().manual_seed(seed))


def matching(x: Tensor, method: ToMeSD) -> tuple[Any, Any]:
    """The package's merge and unmerge for maps that are one window each."""
    height, width = x.shape[1:3]
    return bipartite_soft_matching_random2d(
        x.flatten(1, 2),
        width,
        height,
        method.cell,
        method.cell,
        int(round(method.rate * height * width, 6)),
        method.destination is Destination.FIRST,
        torch.Generator().manual_seed(method.seed),
    )


def own_partition(plan: MergePlan) -> list[set[frozenset[int]]]:
    """Which tokens share a slot, in every window."""
    return [
        {frozenset((row == slot).nonzero().flatten().tolist()) for slot in row.unique()} for row in plan.slot
    ]


def their_partition(merge: Any, batch: int, tokens: int) -> list[set[frozenset[int]]]:
    """The same, read from what becomes of indicators of every token."""
    merged = merge(torch.eye(tokens).expand(batch, -1, -1))  # [B, K, N], above 0 for members
    return [{frozenset(slot.nonzero().flatten().tolist()) for slot in window} for window in merged]


@pytest.mark.parametrize("destination", [Destination.RANDOM, Destination.FIRST])
@pytest.mark.parametrize("rate", [0.1, 0.35, 0.55, 0.75])
@pytest.mark.parametrize(("side", "cell"), [(4, 2), (14, 2), (14, 7), (20, 2)])
def test_plans_are_those_of_the_package(side: int, cell: int, rate: float, destination: Destination) -> None:
    """Means of some tokens of order one are summed in another order: 1e-5."""
    windows = Windows(side, side, side)
    for seed in range(4):
        x = features(side, seed=seed)
        method = ToMeSD(rate, cell, destination, seed=seed)
        plan, (merge, unmerge) = method.plan(x, windows), matching(x, method)
        assert own_partition(plan) == their_partition(merge, len(x), side * side)
        tokens = x.flatten(1, 2)
        own, theirs = plan.unmerge(plan.merge(tokens)), unmerge(merge(tokens))
        assert torch.allclose(own, theirs, rtol=0, atol=1e-5)


def test_the_global_plan_at_1024_pixels_is_that_of_the_package() -> None:
    x, method = features(64, images=1), ToMeSD(0.55, seed=3)
    plan, (merge, unmerge) = method.plan(x, Windows(64, 64, 64)), matching(x, method)
    assert own_partition(plan) == their_partition(merge, 1, 4096)
    tokens = x.flatten(1, 2)
    assert torch.allclose(plan.unmerge(plan.merge(tokens)), unmerge(merge(tokens)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2, 42, 2**31, 2**32 - 1])
@pytest.mark.parametrize(("side", "cell"), [(14, 2), (64, 2), (14, 7)])
def test_the_layout_is_what_pytorch_draws(plain: SimpleNamespace, side: int, cell: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(cell * cell, (side // cell, side // cell, 1), generator=generator).flatten()
    expected = [tokens[member] for tokens, member in zip(plain.cells_of(side, cell), drawn, strict=True)]
    assert ToMeSD(0.5, cell, seed=seed).destinations(Windows(side, side, side)) == expected


def test_where_the_package_divides_by_zero_ours_does_not(plain: SimpleNamespace) -> None:
    """A row of zeros, as padding is. There its similarities are NaN, which count as the largest: all that
    merges goes to two destinations, the first zero and, from zeros, the first of all."""
    x, windows = features(14), Windows(14, 14, 14)
    x[:, -1] = 0
    method = ToMeSD(0.55)
    merge, _ = matching(x, method)
    for partition in their_partition(merge, 2, 196):
        assert sorted(map(len, partition))[-3] == 1
    plan = method.plan(x, windows)
    plain.check_valid(plan)
    assert torch.isfinite(plan.merge(x.flatten(1, 2))).all()
    assert ((plan.size > 1).sum(1) > 30).all(), "most of the 49 destinations are given something"


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    destination=st.sampled_from([Destination.RANDOM, Destination.FIRST]),
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
    """Padding, blank tokens and ties too, which the package cannot do."""
    images, side = data.draw(plain.exact_maps())
    x, windows = plain.on_grid(images, side)
    method = ToMeSD(percent / 100, destination=destination, reduction=reduction, seed=seed)
    plan = method.plan(x, windows)
    cells, generator = plain.cells_of(side, 2), torch.Generator().manual_seed(seed)
    drawn = torch.randint(4, (len(cells),), generator=generator)
    member = np.zeros(len(cells), dtype=int) if destination is Destination.FIRST else drawn.numpy()
    chosen = [cell[place] for cell, place in zip(cells, member, strict=True)]
    others = sorted(set(range(side * side)) - set(chosen))
    merged = percent * side * side // 100
    expected = [plain.match(tokens, others, chosen, merged) for tokens in plain.tokens_of(images, side)]
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged
