"""The grid of cells, and the order in which they merge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .index import count, inverse

TOPK_LIMIT = 3840
"""Largest k that TensorRT's TopK takes."""


def cell_tokens(side: int, cell: int, device: torch.device) -> Tensor:
    """The tokens of every cell of a window.

    Args:
        side: rows and columns of the window, in tokens.
        cell: rows and columns of a cell, the paper's s; divides `side`.

    Returns:
        [cells, s * s] int32 grid indices, cells and the tokens within each in raster order.
    """
    grid = count(side * side, device).view(side // cell, cell, side // cell, cell)
    return grid.transpose(1, 2).reshape(-1, cell * cell)


def member_of(cells: Tensor, member: Tensor) -> Tensor:
    """One token of every cell: [B', G, m] int32 tokens and [B', G, 1] members below m give [B', G] int32."""
    return cells.gather(2, member).squeeze(2)


def merged_cells(rate: float, tokens: int, cell: int) -> int:
    """M = ceil(r N / (s^2 - 1)), the cells that must collapse to remove r N tokens (Algorithm 1).

    The product is rounded before the ceiling, so that 0.75 * 4 / 3 is one cell whatever its last bit says.
    """
    return math.ceil(round(rate * tokens / (cell * cell - 1), 6))


def largest_first(score: Tensor) -> Tensor:
    """Indices that sort scores from the largest down, equal scores by index.

    ONNX gives TopK that tie rule and ONNX Runtime follows it; TensorRT does not promise to. Beyond the k that
    TensorRT takes, each rank is counted from all pairs instead: the same order, for G^2 comparisons.

    Args:
        score: [B', G].

    Returns:
        [B', G] int32, a permutation of each row.
    """
    if score.shape[1] <= TOPK_LIMIT:
        return score.sort(dim=1, descending=True, stable=True).indices.to(torch.int32)
    return inverse(_count_larger(score))


def lexicographic(first: Tensor, place: Tensor) -> Tensor:
    """One score for two orders: the largest `first` is largest, and among equal ones the lowest place.

    Exact, because first * G - place is a whole number that fp32 holds, and no two of a row are equal. Nearly
    all of `first` may be equal: a second stable sort would do the same where TopK keeps the order of equal
    values, which TensorRT does not promise.

    Args:
        first: [B', G] fp32 whole numbers; times G they are below 2^24.
        place: [B', G] or [G] int32, a permutation of 0 .. G - 1 in each row.

    Returns:
        [B', G] fp32.
    """
    return first * first.shape[1] - place


def _count_larger(score: Tensor) -> Tensor:
    """Rank of every score: how many are larger, or equal and earlier. [B', G] to [B', G] int32."""
    index = count(score.shape[1], score.device)
    mine, other = score[:, :, None], score[:, None, :]
    ahead = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    return ahead.sum(-1, dtype=torch.int32)
