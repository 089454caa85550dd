"""Gathers by int32 index, in the forms that every runtime supports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def take(source: Tensor, index: Tensor) -> Tensor:
    """Whole rows: a source [R, ...] and an int32 index of any shape give [*index.shape, ...].

    Every form exports as one ONNX Gather, which takes int32 indices of any rank. `source[index]` would export
    as GatherND, which ONNX Runtime supports with int64 only.
    """
    if source.dim() == 1:
        return source.take(index.long())
    if source.dim() == 2:
        return F.embedding(index, source)
    return source.index_select(0, index.flatten()).view(*index.shape, *source.shape[1:])


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[b, ...]]` for every b: a table [B, N] and an integer index [B, ...] give [B, ...].

    One ONNX GatherElements; a gather from the flattened table would need row numbers first. It moves single
    numbers, so it serves indices and scores; features are gathered as whole rows with `take`.
    """
    return table.gather(1, index.flatten(1).long()).view(index.shape)


def lookup_rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[b]]` for every b: a table [B, N, C] and an int32 index [B, K] give [B, K, C]."""
    offset = count(table.shape[0], table.device)[:, None] * table.shape[1]
    return take(table.flatten(0, 1), index + offset)


def count(stop: int, device: torch.device) -> Tensor:
    """[stop] int32: 0, 1, ..., stop - 1. All indices of this package are int32."""
    return torch.arange(stop, dtype=torch.int32, device=device)


def constant(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """An array of integers or fp32 as an int32 or fp32 tensor, which the exported graph holds as a constant.

    A GPU is not waited for.
    """
    dtype = torch.int32 if np.issubdtype(numbers.dtype, np.integer) else torch.float32
    values = torch.tensor(numbers.tolist(), dtype=dtype)  # a trace records a list as a constant
    return values.to(device, non_blocking=True)


def inverse(order: Tensor) -> Tensor:
    """The inverse of every row's permutation: [B', G] int32 to [B', G] int32."""
    place = count(order.shape[1], order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order.long(), place)
