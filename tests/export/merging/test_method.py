"""What every method promises, whichever it is: valid plans, exact merges, fixed counts, degenerate images."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Destination, Reduction
from structsam_export.merging import (
    ALGM,
    Adjacent,
    Bipartite,
    Hybrid,
    Identity,
    MergePlan,
    Method,
    PiToMe,
    StructSAM,
    ToMe,
    ToMeSD,
    VidToMe,
    Windows,
)

GLOBAL, WINDOW = Windows(64, 64, 64), Windows(64, 64, 14)
Make = Callable[..., Method]
Photographs = Callable[[int], Tensor]


def same_plan(one: MergePlan, other: MergePlan) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("slot", "position", "size"))


@given(data=st.data(), percent=st.integers(0, 75))
def test_the_reduction_decides_what_slots_hold_and_nothing_else(
    plain: SimpleNamespace, make: Make, data: st.DataObject, percent: int
) -> None:
    """Any map and batch: valid plans, means and destinations, the counts that were promised."""
    x, windows = plain.on_grid(*data.draw(plain.exact_maps()))
    plans = {how: make(percent / 100, how).plan(x, windows) for how in Reduction}
    assert same_plan(*plans.values())
    tokens = windows.cut(x)
    for how, plan in plans.items():
        method = make(percent / 100, how)
        assert method.reduction is how
        assert plan.slot.shape == (x.shape[0] * windows.per_image, windows.tokens)
        assert plan.position.shape[1] == method.slots(windows)
        plain.check_valid(plan)
        plain.check_merges(plan, tokens, how)


@given(data=st.data(), percent=st.integers(1, 75), reduction=st.sampled_from(Reduction))
def test_a_recorded_plan_merges_like_the_original(
    plain: SimpleNamespace, make: Make, data: st.DataObject, percent: int, reduction: Reduction
) -> None:
    """Means of whole numbers up to 4, in another order of summation: 1e-5. What is replaced is exact."""
    x, windows = plain.on_grid(*data.draw(plain.exact_maps()))
    method, tokens = make(percent / 100, reduction), windows.cut(x)
    plan = method.plan(x, windows)
    again = MergePlan.recorded(plan.slot, plan.position, method.reduction)
    plain.check_valid(again)
    assert same_plan(again, plan)
    assert again.position.shape[1] == method.slots(windows)
    tolerance = 1e-5 if reduction is Reduction.MEAN else 0.0
    assert (again.merge(tokens) - plan.merge(tokens)).abs().max() <= tolerance


@given(data=st.data(), percent=st.integers(1, 75), seed=st.integers(0, 99))
def test_tokens_that_nothing_merges_into_pass_bit_for_bit(
    plain: SimpleNamespace, make: Make, data: st.DataObject, percent: int, seed: int
) -> None:
    x, windows = plain.on_grid(*data.draw(plain.exact_maps()))
    plan = make(percent / 100, Reduction.MEAN).plan(x, windows)
    tokens = torch.randn(*plan.slot.shape, 5, generator=torch.Generator().manual_seed(seed))
    own = torch.gather(tokens, 1, plan.position.long()[..., None].expand(-1, -1, 5))
    alone = plan.size == 1
    assert torch.equal(plan.merge(tokens)[alone], own[alone])


@given(data=st.data(), percent=st.integers(1, 75), seed=st.integers(0, 99))
def test_merging_rows_of_the_map_equals_cutting_windows_first(
    plain: SimpleNamespace, make: Make, data: st.DataObject, percent: int, seed: int
) -> None:
    """Of features that are not those of the plan, as in an encoder in half precision."""
    x, windows = plain.on_grid(*data.draw(plain.exact_maps()))
    plan = make(percent / 100, Reduction.MEAN).plan(x, windows)
    features = torch.randn(*x.shape[:3], 5, generator=torch.Generator().manual_seed(seed))
    rows = windows.rows(len(x), x.device)
    slots = plan.merge_rows(windows.source(features.flatten(0, 2)), rows)
    assert torch.equal(slots, plan.merge(windows.cut(features)))


@given(seed=st.integers(0, 2**32 - 1), percent=st.integers(1, 75))
def test_a_batch_is_planned_as_its_images_alone(
    plain: SimpleNamespace, make: Make, seed: int, percent: int
) -> None:
    images = plain.exact_directions(np.random.default_rng(seed), (3, 6, 10), blank=0.1)
    x, windows = plain.on_grid(images, 4)
    method = make(percent / 100, Reduction.MEAN)
    together, alone = method.plan(x, windows), [method.plan(image[None], windows) for image in x]
    for name in ("slot", "position", "size"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(plan, name) for plan in alone])), name


@given(seed=st.integers(0, 2**32 - 1), percent=st.integers(1, 75))
def test_tokens_are_judged_by_the_mean_over_heads(
    plain: SimpleNamespace, make: Make, seed: int, percent: int
) -> None:
    """Two heads whose mean is known; what they differ by is far larger, and must not count."""
    rng = np.random.default_rng(seed)
    mean, apart = (plain.exact_directions(rng, (2, 6, 10)) for _ in range(2))
    x, windows = plain.on_grid(np.concatenate([mean + 8 * apart, mean - 8 * apart], 3), 4)
    plan = make(percent / 100, Reduction.MEAN, heads=2).plan(x, windows)
    expected = make(percent / 100, Reduction.MEAN).plan(*plain.on_grid(mean, 4))
    assert same_plan(plan, expected)


# Counts


@pytest.mark.parametrize(
    ("rate", "whole", "window"),
    [(0.35, 1433, 68), (0.45, 1843, 88), (0.55, 2252, 107), (0.65, 2662, 127), (0.70, 2867, 137)],
)
def test_tokens_removed_at_1024_pixels(rate: float, whole: int, window: int) -> None:
    """int(r N), but for methods that can halve at most, and for ALGM's cells alone, which are StructSAM's."""
    kinds = (Bipartite, ToMeSD, VidToMe, ALGM, Hybrid, Adjacent)
    methods: list[Method] = [kind(rate) for kind in kinds]
    capped: list[Method] = [ToMe(rate), PiToMe(rate)]
    for windows, removed in ((GLOBAL, whole), (WINDOW, window)):
        assert {windows.tokens - method.slots(windows) for method in methods} == {removed}
        most = min(removed, windows.tokens // 2)
        assert {windows.tokens - method.slots(windows) for method in capped} == {most}
        assert ALGM(rate, local=1.0).slots(windows) == StructSAM(rate).slots(windows)
    assert ToMe(0.75).slots(GLOBAL) == PiToMe(0.75).slots(GLOBAL) == 2048
    assert ToMe(0.75).slots(WINDOW) == PiToMe(0.75).slots(WINDOW) == 98


def test_slots_at_1024_pixels_match_the_counts(make: Make, photograph_features: Photographs) -> None:
    x, method = photograph_features(64)[:1], make(0.55, Reduction.MEAN)
    for windows in (GLOBAL, WINDOW):
        plan = method.plan(x, windows)
        assert plan.position.shape == (windows.per_image, method.slots(windows))
        assert (plan.size.sum(1) == windows.tokens).all()


# Padding, and images with nothing in them


@pytest.mark.parametrize("percent", [35, 55])
def test_padding_merges_with_padding(make: Make, photograph_features: Photographs, percent: int) -> None:
    """A window that is mostly padding loses nothing of its picture to it."""
    windows = Windows(20, 20, 14)
    x = photograph_features(20)[:1] + 100  # cosines above 0 within the picture, as trained features have
    plan = make(percent / 100, Reduction.MEAN).plan(x, windows)
    padding = windows.rows(1, x.device) == 0
    for own, blank in zip(plan.slot, padding, strict=True):
        assert not set(own[blank].tolist()) & set(own[~blank].tolist())
    tokens = windows.cut(x)
    back = plan.unmerge(plan.merge(tokens))
    assert (back[padding] == 0).all(), "zeros stay zeros"
    assert (back[~padding] != 0).any(1).all()


@pytest.mark.parametrize("reduction", Reduction)
@pytest.mark.parametrize("windows", [Windows(16, 16, 14), Windows(32, 32, 32), Windows(3, 5, 14)], ids=str)
def test_a_constant_image_stays_constant(
    plain: SimpleNamespace, make: Make, windows: Windows, reduction: Reduction
) -> None:
    """All similarities tie. In half precision the result is off by less than one rounding to it, 2^-11, and
    one of its shares, though hundreds of tokens merge: no sum of 30s leaves what fp16 holds."""
    for value, rate in ((1.0, 0.1), (-3.7, 0.55), (30.0, 0.75)):
        x = torch.full((1, windows.height, windows.width, 12), value)
        plan, tokens = make(rate, reduction).plan(x, windows), windows.cut(x)
        plain.check_valid(plan)
        picture = windows.rows(1, x.device) != 0 if windows.padded else torch.ones_like(plan.slot) > 0
        back = plan.unmerge(plan.merge(tokens))
        assert torch.isfinite(back).all()
        pure = picture & ~mixed(plan, picture)
        assert pure.any()
        assert torch.allclose(back[pure], tokens[pure], rtol=1e-5, atol=0)
        half = plan.unmerge(plan.merge(tokens.half()))
        assert half.dtype == torch.float16
        assert torch.isfinite(half).all()
        assert torch.allclose(half[pure].float(), tokens[pure], rtol=2**-10, atol=0)


def mixed(plan: MergePlan, picture: Tensor) -> Tensor:
    """[B', N] tokens whose slot holds picture and padding; a lone token of a window has no other choice."""
    some = torch.zeros(plan.position.shape).scatter_reduce(1, plan.slot.long(), picture.float(), "amax")
    every = torch.ones(plan.position.shape).scatter_reduce(1, plan.slot.long(), picture.float(), "amin")
    return (some != every).gather(1, plan.slot.long())


@pytest.mark.parametrize("reduction", Reduction)
@pytest.mark.parametrize("windows", [Windows(16, 16, 14), Windows(20, 20, 20), Windows(3, 5, 14)], ids=str)
def test_a_black_image_stays_black(
    plain: SimpleNamespace, make: Make, windows: Windows, reduction: Reduction
) -> None:
    """Features that are all zero, which no length divides."""
    x = torch.zeros(2, windows.height, windows.width, 12)
    for rate in (0.1, 0.55, 0.75):
        plan = make(rate, reduction).plan(x, windows)
        plain.check_valid(plan)
        for tokens in (windows.cut(x), windows.cut(x).half()):
            assert (plan.unmerge(plan.merge(tokens)) == 0).all()
        assert same_plan(plan, make(rate, reduction).plan(x, windows))


@pytest.mark.parametrize("reduction", Reduction)
def test_half_of_a_photograph_merges_as_the_whole(
    make: Make, photograph_features: Photographs, reduction: Reduction
) -> None:
    """Features of up to 43 and their means, rounded to fp16 on the way in, as shares, and on the way out."""
    x, windows = photograph_features(20), Windows(20, 20, 14)
    plan, tokens = make(0.55, reduction).plan(x, windows), windows.cut(x)
    half = plan.merge(tokens.half())
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), plan.merge(tokens), rtol=0, atol=43 * 2**-10)


# What verification asks, and random layouts


def test_methods_that_are_sensitive_to_rounding(make: Make) -> None:
    method = make(0.55, Reduction.MEAN)
    assert method.fragile is isinstance(method, PiToMe)
    assert StructSAM(0.55, cells=False).fragile
    assert not Identity().fragile


LAYOUTS: dict[str, Callable[[int], Any]] = {
    "tomesd": lambda seed: ToMeSD(0.55, seed=seed),
    "adjacent": lambda seed: Adjacent(0.55, seed=seed),
    "vidtome": lambda seed: VidToMe(0.55, destination=Destination.RANDOM, seed=seed),
    "bipartite": lambda seed: Bipartite(0.55, destination=Destination.RANDOM, seed=seed),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_a_random_layout_is_drawn_by_seed_and_not_by_image(
    what: str, photograph_features: Photographs
) -> None:
    """The last slots are the destinations, the same in every window of every image."""
    x, windows = photograph_features(20), Windows(20, 20, 14)
    drawn = set()
    for seed in range(5):
        destinations = LAYOUTS[what](seed).plan(x, windows).position[:, -49:]
        assert (destinations == destinations[0]).all()
        other = LAYOUTS[what](seed).plan(x[1:].flip(1), windows).position[:1, -49:]
        assert torch.equal(other, destinations[:1])
        drawn.add(tuple(destinations[0].tolist()))
    assert len(drawn) == 5


@pytest.mark.parametrize("what", ["tomesd", "adjacent", "bipartite"])
def test_every_token_of_a_cell_may_be_drawn(what: str, photograph_features: Photographs) -> None:
    x, windows = photograph_features(14), Windows(14, 14, 14)
    tokens = LAYOUTS[what](0).plan(x, windows).position[0, -49:]
    cells = (tokens // 14 // 2 * 7 + tokens % 14 // 2).tolist()
    assert cells == list(range(49)), "one of every cell"
    assert (tokens // 14 % 2 * 2 + tokens % 2).unique().tolist() == [0, 1, 2, 3]
