"""Forms of attention with SAM's decomposed relative position; which one is fastest depends on the target.

All compute softmax(q . k + bias) v for every query i and key j, with

    bias(i, j) = q_i . Rh[row_i - row_j] + q_i . Rw[column_i - column_j] + log(size_j)

where the last term exists for proportional attention only. They differ by rounding and in speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import Attention
from ..merging.index import take

Form = Callable[[Tensor, Tensor, Tensor, "Bias"], Tensor]
"""From queries, scaled keys and values [B', heads, K, d] and their bias to [B', heads, K, d]."""


@dataclass(frozen=True)
class Bias:
    """The bias of the logits of K slots, before it is expanded over pairs.

    Attributes:
        side: rows and columns of the window.
        relative: [B', heads, K, 2 side], the bias of each query for a key in every row, then for a key in
            every column.
        table: [places, 2 side], see `attention.shares`: one-hot row and column of every position, followed by
            the shares of every cell.
        place: [B', K] int32, row of the table for each slot; grid indices come first. In raster order if
            K = side^2.
        weight: [B', K], added to the logits of a key for every query; None for zero.
    """

    side: int
    relative: Tensor
    table: Tensor
    place: Tensor
    weight: Tensor | None = None

    @property
    def raster(self) -> bool:
        """Whether nothing is merged: slots are then all tokens of the window in raster order."""
        return self.place.shape[1] == self.side**2

    @property
    def shares(self) -> Tensor:
        """One-hot row and column (or shares) of every key: [B', heads, K, 2 side]."""
        heads = self.relative.shape[1]
        return take(self.table, self.place[:, None].expand(-1, heads, -1)).to(self.relative.dtype)

    @property
    def axes(self) -> tuple[Tensor, Tensor]:
        """The bias by row and the bias by column, [B', heads, K, side] each."""
        rows, columns = self.relative.chunk(2, 3)
        return rows, columns

    def weighed(self, logits: Tensor) -> Tensor:
        """Logits [B', heads, K, K] plus the weight of each key."""
        return logits if self.weight is None else logits + self.weight[:, None, None]

    def mask(self) -> Tensor:
        """The bias of every pair, [B', heads, K, K]. A product with one-hot rows is faster than a gather."""
        if not self.raster:
            return self.weighed(self.relative @ self.shares.transpose(2, 3))
        rows, columns = self.axes
        return self.weighed((rows[..., None] + columns[..., None, :]).flatten(3))


def plain(logits: Tensor, value: Tensor) -> Tensor:
    """softmax(logits) v: logits [B', heads, K, K] and values [B', heads, K, d] to [B', heads, K, d]."""
    return logits.softmax(-1) @ value


def widened(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """One product computes logits and bias, so that the bias is never expanded over pairs:

        query = [q, bias for a key in every row, bias for a key in every column]
        key   = [k, one-hot row of the key,      one-hot column of the key     ]

    The one-hot vectors select one term of each axis. That takes 2 side multiply-accumulates per pair and no
    pass over pairs. With merged slots on a CPU it is 5 % faster than `masked` and `operator` by minima, and
    equal by medians (benchmarks/attention-cpu.md).
    """
    queries, keys = [query, bias.relative], [key, bias.shares]
    if bias.weight is not None:
        weight = bias.weight[:, None, :, None].expand(*key.shape[:3], 1)
        queries, keys = [*queries, torch.ones_like(weight)], [*keys, weight]
    return plain(torch.cat(queries, 3) @ torch.cat(keys, 3).transpose(2, 3), value)


def added(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """For slots in raster order: the bias is added to the logits in two broadcast additions."""
    rows, columns = bias.axes
    grid = (query @ key.transpose(2, 3)).view(*rows.shape, bias.side)  # [B', heads, K, row, column]
    grid = grid + rows[..., None] + columns[..., None, :]
    return plain(bias.weighed(grid.flatten(3)), value)


def masked(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias is a mask that is added to the logits: the pattern that TensorRT fuses."""
    return plain(query @ key.transpose(2, 3) + bias.mask(), value)


def operator(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """ONNX's Attention operator (opset 23) with the bias as its mask; TensorRT fuses it from 10.14 on."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.mask(), scale=1.0)


def gathered(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias of every pair is gathered: the reference for the other forms. No mean positions."""
    logits = bias.weighed(query @ key.transpose(2, 3))
    for axis, place in zip(bias.axes, (bias.place // bias.side, bias.place % bias.side), strict=True):
        logits = logits + axis.gather(3, place[:, None, None].expand(logits.shape).long())
    return plain(logits, value)


FORMS: dict[Attention, Form] = {
    Attention.WIDENED: widened,
    Attention.MASK: masked,
    Attention.OPERATOR: operator,
    Attention.GATHER: gathered,
}
"""The function of each value of `--attention`."""


def form(which: Attention, slots: int, side: int, head: int) -> Form:
    """The function that computes a form.

    If no token is merged, `added` replaces `widened`: it gives the same logits, and its two additions cost
    less than 2 side extra channels if 2 side > d. Merged slots have no raster order, so their bias cannot be
    broadcast.

    Args:
        which: the form.
        slots: K, slots of a window.
        side: rows and columns of the window.
        head: d, channels of a head.
    """
    adds = which is Attention.WIDENED and slots == side**2 and 2 * side > head
    return added if adds else FORMS[which]


def carried(which: Attention, slots: int, side: int, head: int, weighed: bool) -> int:
    """Multiply-accumulates per pair of slots and head that a form spends on the bias.

    Args:
        which, slots, side, head: see `form`.
        weighed: whether keys have a weight (proportional attention).
    """
    if form(which, slots, side, head) is widened:
        return 2 * side + weighed
    return 2 * side if slots < side**2 and which is not Attention.GATHER else 0
