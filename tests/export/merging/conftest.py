"""Algorithm 1 of the paper, token by token, as its pseudocode says it: slow and plain.

Features are integers small enough that fp32 holds every sum exactly, so nothing here is approximate.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from structsam_export.merging import MergePlan, StructSAM, Windows

Ints = NDArray[np.int64]
Token = tuple[int, int]  # row and column within the window

SOBEL = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))  # the derivative along columns; transposed, along rows
CENTRAL = ((0, 0, 0), (-1, 0, 1), (0, 0, 0))


def gradient_magnitude(image: Ints, row: int, column: int, kernel: Any) -> float:
    """G(t): both derivatives of every channel, borders replicated over the whole map."""
    height, width, channels = image.shape
    total = 0
    for channel in range(channels):
        across = down = 0
        for i, j in itertools.product(range(3), range(3)):
            y = min(max(row + i - 1, 0), height - 1)
            x = min(max(column + j - 1, 0), width - 1)
            across += kernel[i][j] * int(image[y, x, channel])
            down += kernel[j][i] * int(image[y, x, channel])
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


def partition_window(energy: dict[Token, float], side: int, method: StructSAM) -> Partition:
    """Algorithm 1 on one window whose gradient magnitudes are known."""
    s = method.cell
    if method.cells:
        cells = [
            [(s * top + i, s * left + j) for i in range(s) for j in range(s)]
            for top in range(side // s)
            for left in range(side // s)
        ]
    else:  # groups of s * s neighbours in energy order
        calmest = sorted(energy, key=lambda token: (energy[token], token))
        cells = [calmest[start : start + s * s] for start in range(0, len(calmest), s * s)]

    def flatness(cell: list[Token]) -> float:
        members = [energy[token] for token in cell]
        return -sum(members) / len(members) if method.flatness == "mean" else -max(members)

    cells = sorted(cells, key=lambda cell: -flatness(cell))  # stable: of equal cells the first stays first
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


def algorithm_1(images: Ints, side: int, method: StructSAM) -> list[Partition]:
    """Algorithm 1 for every window of every image [B, H, W, C]; windows are padded as SAM's."""
    kernel = SOBEL if method.gradient == "sobel" else CENTRAL
    partitions = []
    for image in images:
        places = itertools.product(range(image.shape[0]), range(image.shape[1]))
        energy = np.array([gradient_magnitude(image, *place, kernel) for place in places])
        for window in cut_windows(energy.reshape(image.shape[:2]), side, padding=0.0):
            partitions.append(partition_window(window, side, method))
    return partitions


def representatives(plan: MergePlan) -> Tensor:
    """[B', N]: the token that stands for each token."""
    return plan.position.gather(1, plan.slot.long())


def check_valid(plan: MergePlan) -> None:
    """Assert everything that a plan promises, whichever method made it."""
    windows, tokens = plan.slot.shape
    slots = plan.position.shape[1]
    means = plan.pooled.shape[1]
    for tensor in (plan.slot, plan.position, plan.size, plan.pooled, plan.kept):
        assert tensor.dtype == torch.int32
        assert tensor.shape[0] == windows
    assert plan.size.shape == (windows, slots)
    assert plan.kept.shape == (windows, slots - means)
    for window in range(windows):
        members = [(plan.slot[window] == slot).nonzero().flatten().tolist() for slot in range(slots)]
        assert all(members), "every slot below K is used"
        assert sum(map(len, members)) == tokens, "and no other"
        assert plan.size[window].tolist() == [len(tokens_of_slot) for tokens_of_slot in members]
        for slot, position in enumerate(plan.position[window].tolist()):
            assert position in members[slot]
        for slot in range(slots):
            named = plan.pooled[window, slot] if slot < means else plan.kept[window, slot - means, None]
            assert sorted(named.tolist()) == members[slot]


def on_grid(images: Ints, side: int) -> tuple[Tensor, Windows]:
    """Arguments of `Method.plan`."""
    return torch.from_numpy(images).float(), Windows(images.shape[1], images.shape[2], side)


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    """The plain reference and what is compared with it."""
    return SimpleNamespace(
        algorithm_1=algorithm_1,
        cut_windows=cut_windows,
        representatives=representatives,
        check_valid=check_valid,
        on_grid=on_grid,
    )


@pytest.fixture(scope="session")
def photograph_features(photographs: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """Whole numbers with the structure of photographs: `features(grid)` is [3, grid, grid, 12]."""

    def features(grid: int) -> Tensor:
        patches = torch.nn.functional.avg_pool2d(photographs(16 * grid), 8)  # 4 per token and colour
        shuffled = torch.nn.functional.pixel_unshuffle(patches, 2)  # [3, 12, grid, grid]
        return (16 * shuffled).round().permute(0, 2, 3, 1).contiguous()

    return features
