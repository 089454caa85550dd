"""The grid of cells, and the order in which they merge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .index import count, inverse

TOPK_LIMIT = 3840
"""Largest k that TensorRT's TopK takes."""


def cell_tokens(side: int, cell: int, device: torch.device) -> Tensor:
    """Token indices of every cell of a window (paper section 3.3, cell partitioning).

    Args:
        side: rows and columns of the window, in tokens.
        cell: rows and columns of a cell, the paper's s; divides `side`.

    Returns:
        [cells, s * s] int32 grid indices, cells and the tokens within each in raster order.
    """
    grid = count(side * side, device).view(side // cell, cell, side // cell, cell)
    return grid.transpose(1, 2).reshape(-1, cell * cell)


def member_of(cells: Tensor, member: Tensor) -> Tensor:
    """One token of every cell.

    Args:
        cells: [B', G, m] int32, token indices.
        member: [B', G, 1] int64, from 0 to m - 1.

    Returns:
        [B', G] int32 token indices.
    """
    return cells.gather(2, member).squeeze(2)


def merged_cells(rate: float, tokens: int, cell: int) -> int:
    """M = ceil(r N / (s^2 - 1)), the cells that must collapse to remove r N tokens (Algorithm 1).

    The quotient is rounded to six digits before the ceiling, so that a rounding error of fp64 cannot add a
    cell: 0.75 * 4 / 3 is one cell.
    """
    return math.ceil(round(rate * tokens / (cell * cell - 1), 6))


def largest_first(score: Tensor) -> Tensor:
    """Indices that sort scores in descending order; equal scores keep the order of their indices.

    ONNX defines this tie rule for TopK and ONNX Runtime follows it; TensorRT does not guarantee it. If G is
    above TensorRT's limit for k, each rank is counted from all pairs instead: same order, G^2 comparisons.

    Args:
        score: [B', G].

    Returns:
        [B', G] int32, a permutation of each row.
    """
    if score.shape[1] <= TOPK_LIMIT:
        return score.sort(dim=1, descending=True, stable=True).indices.to(torch.int32)
    return inverse(_count_larger(score))


def lexicographic(first: Tensor, place: Tensor) -> Tensor:
    """One score that sorts by two keys: by `first` in descending order, then by `place` in ascending order.

    Exact, because first * G - place is a whole number that fp32 represents, and no two of a row are equal. A
    second stable sort would need a TopK that keeps the order of equal values, which TensorRT does not
    guarantee; nearly all values of `first` may be equal.

    Args:
        first: [B', G] fp32 whole numbers; `first * G` stays below 2^24 in magnitude.
        place: [B', G] or [G] int32, a permutation of 0 .. G - 1 in each row.

    Returns:
        [B', G] fp32, distinct within each row.
    """
    return first * first.shape[1] - place


def _count_larger(score: Tensor) -> Tensor:
    """Rank of every score: how many are larger, or equal and earlier. [B', G] to [B', G] int32."""
    index = count(score.shape[1], score.device)
    mine, other = score[:, :, None], score[:, None, :]
    ahead = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    return ahead.sum(-1, dtype=torch.int32)
