"""Gathers by int32 index, in the forms that every runtime takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def take(source: Tensor, index: Tensor) -> Tensor:
    """Whole rows of `source`: [R, ...] and an int32 index of any shape give [*index.shape, ...].

    Both forms become ONNX Gather, which takes int32; `source[index]` would become GatherND, which ONNX
    Runtime runs with int64 only. An embedding gathers by an index of any rank without reshaping.
    """
    if source.dim() == 2 and source.is_floating_point():
        return F.embedding(index, source)
    return source.index_select(0, index.flatten()).view(*index.shape, *source.shape[1:])


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[b, ...]]` for every b: [B, N] and an int32 [B, ...] give [B, ...]."""
    return take(table.flatten(), _rows(table, index))


def lookup_rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[b]]` for every b: [B, N, C] and an int32 [B, K] give [B, K, C]."""
    return take(table.flatten(0, 1), _rows(table, index))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Numbers among all B * N rows of a [B, N, ...] table."""
    offset = count(table.shape[0], table.device).view(-1, *[1] * (index.dim() - 1))
    return index + offset * table.shape[1]


def count(stop: int, device: torch.device) -> Tensor:
    """0, 1, .. stop - 1 as int32, the type of every index here."""
    return torch.arange(stop, dtype=torch.int32, device=device)


def inverse(order: Tensor) -> Tensor:
    """The inverse of every row's permutation: [B', G] int32 to [B', G] int32."""
    place = count(order.shape[1], order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order.long(), place)
