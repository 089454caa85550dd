"""Attention with SAM's decomposed relative position, in the forms among which a target has its fastest.

All compute softmax(q . k + bias) v for every query and key, with

    bias(i, j) = what a key in j's row adds to query i + what one in j's column adds + log of j's tokens

where the last is for proportional attention alone. They differ by rounding, and in how runtimes run them.
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
"""Of queries, scaled keys and values [B', heads, K, d] and their bias: [B', heads, K, d]."""


@dataclass(frozen=True)
class Bias:
    """What is added to the logits of K slots, not yet laid out over their pairs.

    Attributes:
        side: rows and columns of the window.
        relative: [B', heads, K, 2 side], what a key in every row, and behind them in every column, would add
            to each query's logits.
        table: [places, 2 side], ones at the row and the column of every place; of the mean place of a cell a
            share for each of the cell's.
        place: [B', K] int32, where slots stand, a row of the table: grid indices come first. All tokens of a
            window, K = side^2, stand in raster order.
        weight: [B', K], what every query adds to a key; None for nothing.
    """

    side: int
    relative: Tensor
    table: Tensor
    place: Tensor
    weight: Tensor | None = None

    @property
    def raster(self) -> bool:
        """Whether slots are all of the window's tokens: then nothing is merged, and they keep their order."""
        return self.place.shape[1] == self.side**2

    @property
    def shares(self) -> Tensor:
        """Of every key in each row and column: [B', heads, K, 2 side]."""
        heads = self.relative.shape[1]
        return take(self.table, self.place[:, None].expand(-1, heads, -1)).to(self.relative.dtype)

    @property
    def axes(self) -> tuple[Tensor, Tensor]:
        """What rows add and what columns add, [B', heads, K, side] both."""
        rows, columns = self.relative.chunk(2, 3)
        return rows, columns

    def weighed(self, logits: Tensor) -> Tensor:
        """Logits [B', heads, K, K] with what keys weigh."""
        return logits if self.weight is None else logits + self.weight[:, None, None]

    def mask(self) -> Tensor:
        """[B', heads, K, K]. A product with ones picks what a gather would, and is much faster."""
        if not self.raster:
            return self.weighed(self.relative @ self.shares.transpose(2, 3))
        rows, columns = self.axes
        return self.weighed((rows[..., None] + columns[..., None, :]).flatten(3))


def plain(logits: Tensor, value: Tensor) -> Tensor:
    """softmax(logits) v, of [B', heads, K, K] and [B', heads, K, d]."""
    return logits.softmax(-1) @ value


def widened(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias is part of the one product, so that none is made or added over pairs:

        query = [q, what a key in every row adds, what one in every column adds]
        key   = [k, 1 at the key's row,           1 at the key's column         ]

    The ones of a key pick exactly one term of each axis. That takes 2 side multiply-accumulates for every
    pair and no pass over pairs. On a processor, merged, by minima 5 % faster than with a mask or by ONNX's
    operator, and level by medians (benchmarks/attention-cpu.md).
    """
    queries, keys = [query, bias.relative], [key, bias.shares]
    if bias.weight is not None:
        weight = bias.weight[:, None, :, None].expand(*key.shape[:3], 1)
        queries, keys = [*queries, torch.ones_like(weight)], [*keys, weight]
    return plain(torch.cat(queries, 3) @ torch.cat(keys, 3).transpose(2, 3), value)


def added(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias is added to the logits of slots in raster order, in two passes over pairs."""
    rows, columns = bias.axes
    grid = (query @ key.transpose(2, 3)).view(*rows.shape, bias.side)  # [B', heads, K, row, column]
    grid = grid + rows[..., None] + columns[..., None, :]
    return plain(bias.weighed(grid.flatten(3)), value)


def masked(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias is a mask that is added to the logits: the pattern that TensorRT's fusion looks for."""
    return plain(query @ key.transpose(2, 3) + bias.mask(), value)


def operator(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """ONNX's Attention (opset 23) with the bias as its mask: TensorRT fuses it from 10.14 on."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.mask(), scale=1.0)


def gathered(query: Tensor, key: Tensor, value: Tensor, bias: Bias) -> Tensor:
    """The bias of every pair is gathered: what the others are compared with. Not for mean places."""
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
"""What `--attention` takes."""


def form(which: Attention, slots: int, side: int, head: int) -> Form:
    """The function for a form, of K slots in a window of side x side tokens and heads of d channels.

    Where no token is merged, `added` stands in for `widened`: it gives the same logits, and its two passes
    cost less than carrying the bias as soon as that takes more than the product of query and key itself,
    2 side > d. Merged slots are in any order: their bias would have to be made before it could be added.
    """
    adds = which is Attention.WIDENED and slots == side**2 and 2 * side > head
    return added if adds else FORMS[which]


def carried(which: Attention, slots: int, side: int, head: int, weighed: bool) -> int:
    """Channels in which a product over pairs of slots carries the bias: what it costs each pair."""
    if form(which, slots, side, head) is widened:
        return 2 * side + weighed
    return 2 * side if slots < side**2 and which is not Attention.GATHER else 0
