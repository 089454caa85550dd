"""Bipartite matching that stays near: a method of ours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..index import count, take
from ..layout import cells_of, constant
from ..matching import join, with_padding
from ..metric import head_mean, snap, unit
from ..plan import MergePlan
from ..windows import Windows
from .tomesd import ToMeSD

STEPS = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda step: step != (0, 0))
"""To the cell itself, then to those around it in raster order."""


@dataclass(frozen=True)
class Adjacent(ToMeSD):
    """One token of every cell is a destination; others merge into that of their own cell or of one beside it.

    Ours. A slot stands at one place, and every other token of it sees the window from there; matching counts
    likeness alone and may send a token to the other end of its window. Here it cannot, and no token is
    compared with more than nine, however large the window is. With it attention is proportional by default:
    on `vit_nano` neither gives without the other what both give together (docs/methods.md).

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        destination: a random token of each cell, as `tomesd` draws them, or the first.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the layout.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    proportional: bool = True

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Matching onto what is near in the layout; see `Matching.matched`."""
        cells, near = cells_of(windows, self.cell), near_cells(windows.side // self.cell)  # [G, s^2], [G, 9]
        chosen = np.array(self.destinations(windows))  # [G]
        others = cells[cells != chosen[:, None]].reshape(len(cells), -1)  # [G, s^2 - 1]
        source, destination, around = (
            constant(tokens, x.device).expand(x.shape[0] * windows.per_image, *tokens.shape)
            for tokens in (others, chosen, chosen[near])
        )
        similarity = self._similarity(x, windows, source, around)
        place = similarity.argmax(-1).to(torch.int32) + count(len(cells), x.device)[:, None] * near.shape[1]
        target = take(constant(near, x.device).flatten(), place)  # [B', G, s^2 - 1]
        return join(
            source.flatten(1),
            destination,
            similarity.amax(-1).flatten(1),
            target.flatten(1),
            self.removed(windows),
            self.reduction,
        )

    def _similarity(self, x: Tensor, windows: Windows, source: Tensor, around: Tensor) -> Tensor:
        """How like tokens of every cell are to the destinations around.

        It is snapped before the largest is chosen: products of so few columns differ in their last bit from
        column to column, and alike destinations must tie, so that a token stays in its own cell.

        Args:
            x: [B, H, W, C] features, fp32.
            windows: how the block cuts the map.
            source: [B', G, s^2 - 1] int32, tokens of every cell.
            around: [B', G, 9] int32, destinations of that cell and of those around it.

        Returns:
            [B', G, s^2 - 1, 9], with padding as `with_padding` says.
        """
        metric = unit(head_mean(x, self.heads))
        similarity = windows.cut(metric, source) @ windows.cut(metric, around).transpose(2, 3)
        padding = windows.padding(x.shape[0], x.device)
        return snap(with_padding(similarity, padding, source, around))


def near_cells(side: int) -> NDArray[np.int64]:
    """Every cell and those around it, in a window of side x side cells.

    Beyond the border the outermost cell stands again: a destination that is found twice is found once.

    Returns:
        [cells, 9].
    """
    row, column = np.divmod(np.arange(side * side), side)
    places = [
        np.clip(row + down, 0, side - 1) * side + np.clip(column + across, 0, side - 1)
        for down, across in STEPS
    ]
    return np.stack(places, 1)
