"""Adjacent (ours): bipartite matching within a cell and its eight neighbours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..index import constant, count, take
from ..layout import cells_of
from ..matching import join, with_padding
from ..metric import head_mean, snap, unit
from ..plan import MergePlan
from ..windows import Windows
from .tomesd import ToMeSD

STEPS = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda step: step != (0, 0))
"""Offsets (down, across) to the cell itself, then to its eight neighbours in raster order."""


@dataclass(frozen=True)
class Adjacent(ToMeSD):
    """One token of every cell is a destination; others merge into that of their own or a neighbouring cell.

    Ours. A slot has one position, which all of its tokens share in attention; matching by similarity alone
    may merge a token into a slot at the other end of its window. Here the distance is at most one cell, and
    a token is compared with nine destinations at any window size. Attention is proportional by default: on
    `vit_nano` the gain needs both (docs/methods.md).

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        destination: a random token of each cell, drawn as in `tomesd`, or the first.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the layout of destinations.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
    """

    proportional: bool = True

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Matching with the nine nearest destinations; see `Matching.matched`."""
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
        """Similarity of the tokens of every cell to the destinations around it.

        It is rounded (`snap`) before the maximum is taken: matrix products of so few columns differ in the
        last bit between columns, and identical destinations must tie, so that a token stays in its own cell.

        Args:
            x: [B, H, W, C] features, fp32.
            windows: the block's attention windows.
            source: [B', G, s^2 - 1] int32, tokens of every cell.
            around: [B', G, 9] int32, destinations of that cell and of its neighbours.

        Returns:
            [B', G, s^2 - 1, 9]; see `with_padding` for padding.
        """
        metric = unit(head_mean(x, self.heads))
        similarity = windows.cut(metric, source) @ windows.cut(metric, around).transpose(2, 3)
        padding = windows.padding(x.shape[0], x.device)
        return snap(with_padding(similarity, padding, source, around))


def near_cells(side: int) -> NDArray[np.int64]:
    """Indices of every cell and its eight neighbours, in a window of side x side cells.

    Neighbours beyond the border are replaced by the nearest cell inside; a repeated destination changes no
    maximum.

    Returns:
        [cells, 9], the cell itself first.
    """
    row, column = np.divmod(np.arange(side * side), side)
    places = [
        np.clip(row + down, 0, side - 1) * side + np.clip(column + across, 0, side - 1)
        for down, across in STEPS
    ]
    return np.stack(places, 1)
