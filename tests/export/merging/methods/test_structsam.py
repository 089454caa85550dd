"""StructSAM against Algorithm 1 token by token, exactly; its random ablations; degenerate images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from structsam_export.choices import Border, Destination, Flatness, Gradient, Place, Scope, Selection
from structsam_export.merging import Identity, MergePlan, StructSAM, Windows

DESTINATIONS = [Destination.MIN, Destination.MAX, Destination.RANDOM]
RATES = {
    2: st.integers(0, 75).map(lambda percent: percent / 100),
    7: st.integers(0, 48).map(lambda n: n / 49),
}


@dataclass(frozen=True)
class Case:
    """Integer features [B, H, W, C], the side of a window, and the cell."""

    images: NDArray[np.int64]
    side: int
    cell: int


@st.composite
def cases(draw: st.DrawFn, cell: int | None = None, high: int = 4) -> Case:
    """Maps of any size, smaller and larger than a window, with many equal values or with few."""
    cell = cell or draw(st.sampled_from([2, 7]))
    side = 14 if cell == 7 else draw(st.sampled_from([2, 4, 6]))
    shape = draw(st.tuples(st.integers(1, 2), *[st.integers(1, 2 * side)] * 2, st.integers(1, 3)))
    low = draw(st.sampled_from([0, -high]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Case(rng.integers(low, high + 1, shape), side, cell)


def check_equals_reference(plain: SimpleNamespace, case: Case, method: StructSAM) -> None:
    """The same partition, the same representatives, the same slots in the same order, the same means."""
    x, windows = plain.on_grid(case.images, case.side)
    plan = method.plan(x, windows)
    plain.check_valid(plan)
    expected = plain.algorithm_1(case.images, case.side, method)
    target = [[place_of(p.target[token], case.side) for token in sorted(p.target)] for p in expected]
    assert plain.representatives(plan).tolist() == target
    if method.rate:
        merged = [[place_of(destination, case.side) for _, destination in p.merged] for p in expected]
        assert plan.position[:, : plan.rule.pooled.shape[1]].tolist() == merged
    assert plan.position.shape[1] == method.slots(windows)

    scaled = case.images * case.cell**2  # so that the mean of a cell is a whole number
    slots = plan.merge(windows.cut(torch.from_numpy(scaled).float()))
    padding = np.zeros(scaled.shape[3], dtype=scaled.dtype)
    tokens = [window for image in scaled for window in plain.cut_windows(image, case.side, padding)]
    for own, position, window, partition in zip(slots, plan.position, tokens, expected, strict=True):
        mean = {
            destination: sum(window[token] for token in cell) // len(cell)
            for cell, destination in partition.merged
        }
        for value, place in zip(own.tolist(), position.tolist(), strict=True):
            token = divmod(place, case.side)
            assert value == mean.get(token, window[token]).tolist()


def place_of(token: tuple[int, int], side: int) -> int:
    """Grid index of a row and a column."""
    return token[0] * side + token[1]


@given(
    case=cases(),
    data=st.data(),
    gradient=st.sampled_from(Gradient),
    destination=st.sampled_from([Destination.MIN, Destination.MAX]),
    cells=st.booleans(),
    place=st.sampled_from(Place),
)
def test_plan_is_algorithm_1(
    plain: SimpleNamespace,
    case: Case,
    data: Any,
    gradient: Gradient,
    destination: Destination,
    cells: bool,
    place: Place,
) -> None:
    """Where attention sees a cell is not the plan's business."""
    rate = data.draw(RATES[case.cell])
    method = StructSAM(rate, case.cell, gradient, destination=destination, cells=cells, place=place)
    check_equals_reference(plain, case, method)
    assert method.footprint == (case.cell if place is Place.MEAN else 1)


@given(
    case=cases(),
    data=st.data(),
    gradient=st.sampled_from(Gradient),
    scope=st.sampled_from(Scope),
    border=st.sampled_from(Border),
)
def test_window_scope_and_zero_border_match_the_reference(
    plain: SimpleNamespace, case: Case, data: Any, gradient: Gradient, scope: Scope, border: Border
) -> None:
    rate = data.draw(RATES[case.cell])
    check_equals_reference(plain, case, StructSAM(rate, case.cell, gradient, scope, border))


@given(
    data=st.data(),
    percent=st.integers(0, 75),
    flatness=st.sampled_from([Flatness.VARIANCE, Flatness.COSINE]),
    cells=st.booleans(),
)
def test_cells_are_ranked_by_their_features(
    plain: SimpleNamespace, data: Any, percent: int, flatness: Flatness, cells: bool
) -> None:
    """Exactly: sums of whole numbers and of cosines in sixteenths."""
    images, side = data.draw(plain.exact_maps())
    method = StructSAM(percent / 100, flatness=flatness, cells=cells)
    check_equals_reference(plain, Case(images, side, 2), method)


@given(case=cases(), data=st.data(), gradient=st.sampled_from(Gradient), upright=st.booleans())
def test_mean_flatness_ranks_cells_by_their_mean(
    plain: SimpleNamespace, case: Case, data: Any, gradient: Gradient, upright: bool
) -> None:
    """One channel that varies along one axis: G is then a whole number, so its mean is exact to compare."""
    images = case.images[..., :1]
    profile = images[:, :1] if upright else images[:, :, :1]
    striped = replace(case, images=np.broadcast_to(profile, images.shape).copy())
    rate = data.draw(RATES[case.cell])
    check_equals_reference(
        plain, striped, StructSAM(rate, case.cell, gradient=gradient, flatness=Flatness.MEAN)
    )


def test_mean_flatness_on_photographs_merges_the_flattest_cells(
    photograph_features: Callable[[int], Tensor],
) -> None:
    """Roots and means round in fp32, so cells whose flatness differs by less than 1e-6 of it may swap."""
    windows, s = Windows(20, 20, 14), 2
    x = photograph_features(20)
    plan = StructSAM(0.4, flatness=Flatness.MEAN).plan(x, windows)
    energy = windows.cut(exact_energy(x)).sqrt()  # [B', N] fp64
    mean = energy.gather(1, plan.rule.pooled.flatten(1).long()).unflatten(1, (-1, s * s)).mean(2)
    kept = energy.gather(1, plan.rule.kept.long()).unflatten(1, (-1, s * s)).mean(2)
    assert (mean.amax(1) <= kept.amin(1) * (1 + 1e-6)).all()
    assert (mean.diff(dim=1) >= -1e-6 * mean[:, 1:]).all()


def exact_energy(x: Tensor) -> Tensor:
    """Squared Sobel gradient in fp64, by another route: a convolution."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    weight = torch.stack([kernel, kernel.T])[:, None].repeat(x.shape[3], 1, 1, 1)  # [2 C, 1, 3, 3]
    planes = torch.nn.functional.pad(x.double().permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(planes, weight, groups=x.shape[3]).square().sum(1)


@given(case=cases(cell=2), data=st.data())
def test_energy_on_the_mean_over_heads_is_algorithm_1_on_that_mean(
    plain: SimpleNamespace, case: Case, data: Any
) -> None:
    rate, heads = data.draw(RATES[2]), 2
    features = np.repeat(case.images, heads, axis=3)  # as wide as it takes to have heads
    features[..., : case.images.shape[3]] += 2 * np.flip(case.images, axis=1)
    x, windows = plain.on_grid(features, case.side)
    averaged = features.reshape(*features.shape[:3], heads, -1).sum(3)  # twice the mean: the same order
    plan = StructSAM(rate, heads=heads).plan(x, windows)
    same = StructSAM(rate).plan(*plain.on_grid(averaged, case.side))
    check_same_plan(plan, same)


def tensors(plan: MergePlan) -> dict[str, Tensor]:
    """All that a plan consists of, by name."""
    return {"slot": plan.slot, "position": plan.position, "size": plan.size, **vars(plan.rule)}


def check_same_plan(one: MergePlan, other: MergePlan) -> None:
    assert type(one.rule) is type(other.rule)
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(other)[name]), name


@given(
    case=cases(),
    data=st.data(),
    selection=st.sampled_from(Selection),
    destination=st.sampled_from(DESTINATIONS),
    flatness=st.sampled_from(Flatness),
    cells=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_ablation_gives_a_valid_plan(
    plain: SimpleNamespace,
    case: Case,
    data: Any,
    selection: Selection,
    destination: Destination,
    flatness: Flatness,
    cells: bool,
    seed: int,
) -> None:
    method = StructSAM(
        data.draw(RATES[case.cell]),
        case.cell,
        flatness=flatness,
        selection=selection,
        destination=destination,
        cells=cells,
        seed=seed,
    )
    x, windows = plain.on_grid(case.images, case.side)
    plan = method.plan(x, windows)
    plain.check_valid(plan)
    assert plan.slot.shape == (x.shape[0] * windows.per_image, windows.tokens)
    assert plan.position.shape[1] == method.slots(windows)
    check_same_plan(plan, method.plan(x, windows))


def test_random_cells_are_the_same_in_every_window_of_every_image(
    photograph_features: Callable[[int], Tensor],
) -> None:
    x, windows = photograph_features(20), Windows(20, 20, 14)
    plan = StructSAM(0.55, selection=Selection.RANDOM).plan(x, windows)
    assert (plan.rule.pooled == plan.rule.pooled[0]).all()
    other_image = StructSAM(0.55, selection=Selection.RANDOM).plan(x[1:].flip(1), windows)
    assert torch.equal(plan.rule.pooled[:1], other_image.rule.pooled[:1])


def test_random_cells_differ_with_the_seed(photograph_features: Callable[[int], Tensor]) -> None:
    x, windows = photograph_features(14), Windows(14, 14, 14)
    chosen = {
        tuple(StructSAM(0.55, selection=Selection.RANDOM, seed=seed).plan(x, windows).slot[0].tolist())
        for seed in range(5)
    }
    assert len(chosen) == 5


def test_random_cells_are_not_the_flattest(photograph_features: Callable[[int], Tensor]) -> None:
    x, windows = photograph_features(14), Windows(14, 14, 14)
    random = StructSAM(0.55, selection=Selection.RANDOM).plan(x, windows)
    assert not torch.equal(random.slot, StructSAM(0.55).plan(x, windows).slot)


def test_random_destinations_change_positions_and_nothing_else(
    photograph_features: Callable[[int], Tensor],
) -> None:
    x, windows = photograph_features(14), Windows(14, 14, 14)
    calmest = StructSAM(0.55).plan(x, windows)
    places = set()
    for seed in range(5):
        plan = StructSAM(0.55, destination=Destination.RANDOM, seed=seed).plan(x, windows)
        assert torch.equal(plan.slot, calmest.slot)
        assert torch.equal(plan.rule.pooled, calmest.rule.pooled)
        within = (plan.rule.pooled == plan.position[:, : plan.rule.pooled.shape[1], None]).int().argmax(2)
        assert (within == within[0]).all(), "the draw does not depend on the image"
        assert within.unique().tolist() == [0, 1, 2, 3], "every member of a cell has its chance"
        places.add(tuple(within[0].tolist()))
    assert len(places) == 5


def test_no_cell_merges_tokens_that_are_not_neighbours(
    photograph_features: Callable[[int], Tensor],
) -> None:
    x, windows = photograph_features(14), Windows(14, 14, 14)
    plan = StructSAM(0.55, cells=False).plan(x, windows)
    energy = windows.cut(exact_energy(x))
    merged = energy.gather(1, plan.rule.pooled.flatten(1).long())
    assert (merged.diff(dim=1) >= 0).all(), "from the calmest token up"
    assert (merged.amax(1) <= energy.gather(1, plan.rule.kept.long()).amin(1)).all()
    spread = plan.rule.pooled.div(14, rounding_mode="floor")
    assert ((spread.amax(2) - spread.amin(2)) > 1).any()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7])
@pytest.mark.parametrize("cell", [2, 7])
@pytest.mark.parametrize("rate", [0.1, 0.55, 0.75])
def test_a_constant_image_merges_its_cells_in_raster_order(value: float, cell: int, rate: float) -> None:
    """All energies are 0, so every choice is a tie: lower cells merge first, onto their first token."""
    windows, method = Windows(16, 16, 14), StructSAM(rate, cell)
    plan = method.plan(torch.full((1, 16, 16, 3), value), windows)
    merged = method.merged(windows)
    assert (plan.rule.pooled == plan.rule.pooled[0]).all()
    corner = [plan.rule.pooled[0, slot].min().item() for slot in range(merged)]
    expected = [cell * row * 14 + cell * column for row in range(14 // cell) for column in range(14 // cell)]
    assert corner == expected[:merged]
    assert plan.position[0, :merged].tolist() == corner
    assert torch.isfinite(plan.unmerge(plan.merge(windows.cut(torch.full((1, 16, 16, 3), value))))).all()


def test_padding_merges_before_any_picture(photograph_features: Callable[[int], Tensor]) -> None:
    windows = Windows(16, 16, 14)  # the last window holds 2 x 2 tokens of the picture: one cell
    plan = StructSAM(0.75 * 48 / 49).plan(photograph_features(16), windows)
    assert (plan.rule.kept[windows.per_image - 1] == torch.tensor([0, 1, 14, 15])).all()


def test_rate_0_is_the_identity(photograph_features: Callable[[int], Tensor]) -> None:
    x, windows = photograph_features(20), Windows(20, 20, 14)
    check_same_plan(StructSAM(0.0).plan(x, windows), Identity().plan(x, windows))
    assert StructSAM(0.0).slots(windows) == Identity().slots(windows) == 196


@pytest.mark.parametrize("cells", [True, False])
@pytest.mark.parametrize("flatness", Flatness)
def test_a_batch_is_planned_as_its_images_alone(
    cells: bool, flatness: Flatness, photograph_features: Callable[[int], Tensor]
) -> None:
    x, windows = photograph_features(20), Windows(20, 20, 14)
    method = StructSAM(0.55, cells=cells, flatness=flatness)
    together = method.plan(x, windows)
    alone = [tensors(method.plan(image[None], windows)) for image in x]
    for name, value in tensors(together).items():
        assert torch.equal(value, torch.cat([plan[name] for plan in alone])), name


@pytest.mark.parametrize(
    ("rate", "whole", "window"),
    [
        (0.35, 478, 23),
        (0.45, 615, 30),
        (0.55, 751, 36),
        (0.65, 888, 43),
        (0.70, 956, 46),
        (0.75, 1024, 49),
    ],
)
def test_counts_at_1024_pixels(rate: float, whole: int, window: int) -> None:
    method = StructSAM(rate)
    assert method.merged(Windows(64, 64, 64)) == whole
    assert method.slots(Windows(64, 64, 64)) == 4096 - 3 * whole
    assert method.merged(Windows(64, 64, 14)) == window
    assert method.slots(Windows(64, 64, 14)) == 196 - 3 * window


def test_what_attention_sees_at_1024_pixels_and_rate_055(
    photograph_features: Callable[[int], Tensor],
) -> None:
    x, method = photograph_features(64)[:1], StructSAM(0.55)
    assert method.plan(x, Windows(64, 64, 64)).position.shape == (1, 1843)
    assert method.plan(x, Windows(64, 64, 14)).position.shape == (25, 88)
