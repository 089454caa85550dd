"""What merging methods promise, and what they do, token by token: slow and plain.

Features are whole numbers with which fp32 computes exactly, so nothing here is approximate.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from structsam_export.choices import Border, Destination, Flatness, Gradient, Reduction, Scope
from structsam_export.merging import (
    ALGM,
    Adjacent,
    Bipartite,
    Hybrid,
    MergePlan,
    Method,
    PiToMe,
    StructSAM,
    ToMe,
    ToMeSD,
    VidToMe,
    Windows,
)
from structsam_export.merging.reduction import CellMean

Ints = NDArray[np.int64]
Token = tuple[int, int]  # row and column within the window
Slots = list[list[int]]  # the tokens of every slot of a window, the one at its position first


class Make(Protocol):
    """Makes a method of a rate and a reduction, all else fixed."""

    def __call__(self, rate: float, reduction: Reduction, heads: int = 1) -> Method: ...


METHODS: dict[str, Make] = {
    "structsam": lambda r, how, heads=1: StructSAM(r, reduction=how, heads=heads),
    "structsam variance": lambda r, how, heads=1: StructSAM(
        r, flatness=Flatness.VARIANCE, reduction=how, heads=heads
    ),
    "structsam cosine": lambda r, how, heads=1: StructSAM(
        r, flatness=Flatness.COSINE, reduction=how, heads=heads
    ),
    "bipartite": lambda r, how, heads=1: Bipartite(r, reduction=how, heads=heads),
    "tome": lambda r, how, heads=1: ToMe(r, how, heads),
    "tomesd": lambda r, how, heads=1: ToMeSD(r, reduction=how, heads=heads),
    "pitome": lambda r, how, heads=1: PiToMe(r, reduction=how, heads=heads),
    "vidtome": lambda r, how, heads=1: VidToMe(r, reduction=how, heads=heads),
    "vidtome random": lambda r, how, heads=1: VidToMe(
        r, destination=Destination.RANDOM, reduction=how, heads=heads
    ),
    "algm": lambda r, how, heads=1: ALGM(r, reduction=how, heads=heads),
    "algm local": lambda r, how, heads=1: ALGM(r, local=1.0, reduction=how, heads=heads),
    "adjacent": lambda r, how, heads=1: Adjacent(r, reduction=how, heads=heads),
    "hybrid": lambda r, how, heads=1: Hybrid(r, reduction=how, heads=heads),
    "hybrid variance": lambda r, how, heads=1: Hybrid(
        r, flatness=Flatness.VARIANCE, reduction=how, heads=heads
    ),
}
"""Every method with its own options, and those whose second option changes what is computed."""

SOBEL = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))  # the derivative along columns; transposed, along rows
CENTRAL = ((0, 0, 0), (-1, 0, 1), (0, 0, 0))


def gradient_magnitude(
    image: Ints, row: int, column: int, kernel: Any, border: Border = Border.REPLICATE
) -> float:
    """G(t): both derivatives of every channel; around the map its border again, or zeros."""
    height, width, channels = image.shape
    total = 0
    for channel in range(channels):
        across = down = 0
        for i, j in itertools.product(range(3), range(3)):
            y = min(max(row + i - 1, 0), height - 1)
            x = min(max(column + j - 1, 0), width - 1)
            outside = (y, x) != (row + i - 1, column + j - 1)
            value = 0 if outside and border is Border.ZERO else int(image[y, x, channel])
            across += kernel[i][j] * value
            down += kernel[j][i] * value
        total += across**2 + down**2
    return math.sqrt(total)


@dataclass
class Partition:
    """What Algorithm 1 gives for one window.

    Attributes:
        merged: A and the destinations: the members and the destination of every merged cell, flattest first.
        kept: the tokens of protected cells.
        target: pi, and the identity for tokens that stay: the token that stands for each token.
    """

    merged: list[tuple[list[Token], Token]] = field(default_factory=list)
    kept: list[Token] = field(default_factory=list)
    target: dict[Token, Token] = field(default_factory=dict)


def cells_in_order(
    energy: dict[Token, float], features: dict[Token, Ints | None], side: int, method: StructSAM | Hybrid
) -> list[list[Token]]:
    """The cells of one window, the flattest first."""
    s = method.cell
    if not isinstance(method, StructSAM) or method.cells:
        cells = [
            [(s * top + i, s * left + j) for i in range(s) for j in range(s)]
            for top in range(side // s)
            for left in range(side // s)
        ]
    else:  # groups of s * s neighbours in energy order
        calmest = sorted(energy, key=lambda token: (energy[token], token))
        cells = [calmest[start : start + s * s] for start in range(0, len(calmest), s * s)]

    def flatness(cell: list[Token]) -> float:
        if method.flatness is Flatness.VARIANCE:
            return -variance([features[token] for token in cell])
        if method.flatness is Flatness.COSINE:
            return mean_cosine([features[token] for token in cell])
        members = [energy[token] for token in cell]
        return -sum(members) / len(members) if method.flatness == "mean" else -max(members)

    return sorted(cells, key=lambda cell: -flatness(cell))  # stable: of equal cells the first stays first


def variance(members: list[Ints | None]) -> float:
    """Mean squared distance from the mean; padding is zeros."""
    known = [np.zeros(1, np.int64) if one is None else one for one in members]
    total, squares = sum(known), sum(int((one * one).sum()) for one in known)
    return (squares * len(known) - int((total * total).sum())) / len(known) ** 2


def mean_cosine(members: list[Ints | None]) -> float:
    """Of all pairs; 1 for cells that are padding, or nothing but zeros."""
    if all(token is None or not token.any() for token in members):
        return 1.0
    blank = np.zeros(16, dtype=np.int64)
    pairs = itertools.combinations([blank if token is None else token for token in members], 2)
    cosines = [cosine(*pair) for pair in pairs]
    return sum(cosines) / len(cosines)


def partition_window(
    energy: dict[Token, float], features: dict[Token, Ints | None], side: int, method: StructSAM
) -> Partition:
    """Algorithm 1 on one window whose gradient magnitudes are known."""
    s, cells = method.cell, cells_in_order(energy, features, side, method)
    rate = Fraction(method.rate).limit_denominator(
        10**6
    )  # the number that was meant, without fp64's rounding
    to_merge = math.ceil(rate * side * side / (s * s - 1))
    result = Partition()
    for cell in cells[:to_merge]:
        choose = max if method.destination == "max" else min
        destination = choose(cell, key=energy.__getitem__)  # the first of equal ones
        result.merged.append((cell, destination))
        for token in cell:
            result.target[token] = destination
    for cell in cells[to_merge:]:
        result.kept += cell
        for token in cell:
            result.target[token] = token
    return result


def cut_windows(image: Any, side: int, padding: Any) -> list[dict[Token, Any]]:
    """What lies at every token of every window, with `padding` outside of the map."""
    height, width = image.shape[:2]
    return [
        {
            (i, j): image[top + i, left + j] if top + i < height and left + j < width else padding
            for i in range(side)
            for j in range(side)
        }
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def energies(
    images: Ints,
    side: int,
    gradient: Gradient,
    scope: Scope = Scope.MAP,
    border: Border = Border.REPLICATE,
) -> list[dict[Token, float]]:
    """G(t) in every window of every image [B, H, W, C]; windows are padded as SAM's."""
    kernel = SOBEL if gradient is Gradient.SOBEL else CENTRAL
    blank = np.zeros(images.shape[3], images.dtype)
    windows = []
    for image in images:
        maps = [image]
        if scope is Scope.WINDOW:
            cut = cut_windows(image, side, padding=blank)
            maps = [np.array([one[token] for token in sorted(one)]).reshape(side, side, -1) for one in cut]
        for one in maps:
            places = itertools.product(range(one.shape[0]), range(one.shape[1]))
            energy = np.array([gradient_magnitude(one, *place, kernel, border) for place in places])
            windows += cut_windows(energy.reshape(one.shape[:2]), side, padding=0.0)
    return windows


def algorithm_1(images: Ints, side: int, method: StructSAM) -> list[Partition]:
    """Algorithm 1 for every window of every image [B, H, W, C]."""
    known = energies(images, side, method.gradient, method.scope, method.border)
    features = [window for image in images for window in cut_windows(image, side, padding=None)]
    return [partition_window(*window, side, method) for window in zip(known, features, strict=True)]


def exact_directions(rng: np.random.Generator, shape: tuple[int, ...], blank: float = 0.0) -> Ints:
    """[*shape, 16] whole numbers whose norms are powers of two, so that every cosine is exact in fp32.

    Cosines are multiples of 1/16, so that many are equal. A share `blank` of the tokens is zero.
    """
    count = math.prod(shape)
    ones = rng.choice([1, 4, 16], size=count)
    first = rng.permuted(np.tile(np.arange(16), (count, 1)), axis=1) < ones[:, None]
    x = first * rng.choice([-1, 1], size=(count, 16)) * rng.choice([1, 2, 4], size=(count, 1))
    return np.where(rng.random((count, 1)) < blank, 0, x).reshape(*shape, 16)


@st.composite
def exact_maps(draw: st.DrawFn, sides: Sequence[int] = (2, 4, 6)) -> tuple[Ints, int]:
    """Maps [B, H, W, 16] of `exact_directions`, smaller and larger than a window, and its side."""
    side = draw(st.sampled_from(sides))
    shape = draw(st.tuples(st.integers(1, 2), *[st.integers(1, 2 * side)] * 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    what = draw(st.sampled_from(["busy", "busy", "with blank tokens", "flat", "black"]))
    images = exact_directions(rng, shape, blank={"with blank tokens": 0.2, "black": 1.0}.get(what, 0.0))
    return (np.broadcast_to(images[0, 0, 0], images.shape).copy() if what == "flat" else images), side


def tokens_of(images: Ints, side: int) -> list[list[Ints | None]]:
    """The tokens of every window in raster order; None is padding."""
    windows = [window for image in images for window in cut_windows(image, side, padding=None)]
    return [[window[token] for token in sorted(window)] for window in windows]


def cosine(a: Ints | None, b: Ints | None) -> float:
    """Of two tokens: padding is like padding and like nothing else, zeros are like nothing."""
    if a is None or b is None:
        return float(a is b)
    lengths = math.sqrt(int(a @ a)) * math.sqrt(int(b @ b))
    return int(a @ b) / lengths if lengths else 0.0


def favourite(tokens: list[Ints | None], token: int, among: list[int]) -> tuple[int, float]:
    """The token that one is most like, the first of equal ones, and how much."""
    scores = [cosine(tokens[token], tokens[other]) for other in among]
    return among[scores.index(max(scores))], max(scores)


def match(
    tokens: list[Ints | None],
    source: list[int],
    destination: list[int],
    merged: int,
    protected: Sequence[int] = (),
) -> Slots:
    """Bipartite soft matching of one window: the `merged` sources most like a destination go there."""
    if not merged:
        return [[token] for token in range(len(tokens))]  # the identity, in raster order
    target = {token: favourite(tokens, token, destination) for token in source}
    order = source
    if merged < len(source):  # stable: of equal ones the first stays first
        order = sorted(source, key=lambda token: -target[token][1])
    alone = [[token] for token in [*protected, *order[merged:]]]
    received = [[token for token in order[:merged] if target[token][0] == other] for other in destination]
    return alone + [[other, *members] for other, members in zip(destination, received, strict=True)]


def cells_of(side: int, cell: int) -> list[list[int]]:
    """The tokens of every cell of a window, all in raster order."""
    corners = itertools.product(range(0, side, cell), repeat=2)
    return [
        [(top + i) * side + left + j for i, j in itertools.product(range(cell), repeat=2)]
        for top, left in corners
    ]


def representatives(plan: MergePlan) -> Tensor:
    """[B', N]: the token that stands for each token."""
    return plan.position.gather(1, plan.slot.long())


def members_of(plan: MergePlan, window: int) -> Slots:
    """The tokens of every slot, ascending."""
    members: Slots = [[] for _ in range(plan.position.shape[1])]
    for token, slot in enumerate(plan.slot[window].tolist()):
        members[slot].append(token)
    return members


def check_valid(plan: MergePlan) -> None:
    """Assert everything that a plan promises, whichever method made it."""
    windows, tokens = plan.slot.shape
    slots = plan.position.shape[1]
    rule = [value for value in vars(plan.rule).values() if isinstance(value, Tensor)]
    for tensor in (plan.slot, plan.position, plan.size, *rule):
        assert tensor.dtype == torch.int32 or tensor.is_floating_point()
        assert tensor.shape[0] == windows
    assert not any(tensor.is_floating_point() for tensor in (plan.slot, plan.position, plan.size))
    assert plan.size.shape == (windows, slots)
    for window in range(windows):
        members = members_of(plan, window)
        assert all(members), "every slot below K is used"
        assert sum(map(len, members)) == tokens, "and no other"
        assert plan.size[window].tolist() == [len(tokens_of_slot) for tokens_of_slot in members]
        for slot, position in enumerate(plan.position[window].tolist()):
            assert position in members[slot]
        if isinstance(plan.rule, CellMean):
            pooled, kept = plan.rule.pooled[window], plan.rule.kept[window]
            assert len(pooled) + len(kept) == slots
            for slot, named in enumerate([*pooled, *kept[:, None]]):
                assert sorted(named.tolist()) == members[slot]


def check_slots(plan: MergePlan, expected: list[Slots]) -> None:
    """Assert the same slots in the same order, in every window."""
    assert plan.position.tolist() == [[slot[0] for slot in slots] for slots in expected]
    assert plan.size.tolist() == [[len(slot) for slot in slots] for slots in expected]
    for own, slots in zip(plan.slot.tolist(), expected, strict=True):
        number = {token: index for index, slot in enumerate(slots) for token in slot}
        assert own == [number[token] for token in range(len(own))]


def check_merges(plan: MergePlan, x: Tensor, reduction: Reduction) -> None:
    """Assert that slots hold means, or their position's token exactly, and that unmerging copies them.

    Args:
        plan: of B' windows.
        x: [B', N, C] numbers below 64: a mean of hundreds rounds by less than 1e-5 in fp32.
        reduction: what slots are to hold.
    """
    slots, tolerance = plan.merge(x), 1e-5 if reduction is Reduction.MEAN else 0.0
    own, made, back = x.double().numpy(), slots.numpy(), plan.unmerge(slots).numpy()
    for window, positions in enumerate(plan.position.tolist()):
        for slot, members in enumerate(members_of(plan, window)):
            which = members if reduction is Reduction.MEAN else [positions[slot]]
            assert np.abs(made[window, slot] - own[window, which].mean(0)).max() <= tolerance
            assert (back[window, members] == made[window, slot]).all()


def on_grid(images: Ints, side: int) -> tuple[Tensor, Windows]:
    """Arguments of `Method.plan`."""
    return torch.from_numpy(images).float(), Windows(images.shape[1], images.shape[2], side)


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    """The plain reference and what is compared with it."""
    return SimpleNamespace(
        algorithm_1=algorithm_1,
        energies=energies,
        cut_windows=cut_windows,
        cells_in_order=cells_in_order,
        mean_cosine=mean_cosine,
        exact_directions=exact_directions,
        tokens_of=tokens_of,
        cosine=cosine,
        match=match,
        cells_of=cells_of,
        exact_maps=exact_maps,
        representatives=representatives,
        check_valid=check_valid,
        check_slots=check_slots,
        check_merges=check_merges,
        on_grid=on_grid,
    )


@pytest.fixture(params=METHODS, scope="session")
def make(request: pytest.FixtureRequest) -> Make:
    """Every method in turn."""
    return METHODS[request.param]


@pytest.fixture(scope="session")
def photograph_features(photographs: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """Whole numbers with the structure of photographs: `features(grid)` is [3, grid, grid, 12]."""

    @cache
    def made(grid: int) -> Tensor:
        patches = torch.nn.functional.avg_pool2d(photographs(16 * grid), 8)  # 4 per token and colour
        shuffled = torch.nn.functional.pixel_unshuffle(patches, 2)  # [3, 12, grid, grid]
        return (16 * shuffled).round().permute(0, 2, 3, 1).contiguous()

    return lambda grid: made(grid).clone()
