"""Bipartite matching that stays near: a method of ours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .index import count, take
from .layout import cells_of, constant
from .matching import join
from .metric import head_mean, snap, unit
from .plan import MergePlan
from .tomesd import ToMeSD
from .windows import Windows

STEPS = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda step: step != (0, 0))
"""To the cell itself, then to those around it in raster order."""


@dataclass(frozen=True)
class Adjacent(ToMeSD):
    """One token of every cell is a destination; others merge into that of their own cell or of one beside it.

    Ours. A slot stands at one place, and every other token of it sees the window from there, so that what
    merges from far away pays for it in relative position, which no method of matching counts. Among nine
    destinations in place of all, tokens find one nearly as like and much nearer. On `vit_nano` no method is
    closer to the unmerged masks (docs/methods.md). It takes 27 similarities for a cell, however large the
    window is; comparing all tokens with all destinations grows with the square.

    Unlike ToMeSD's, its attention is proportional by default, for the same reason: it was better by more
    than the intervals.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        destination: a random token of each cell, as `tomesd` draws them, or the first.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: similarity is taken on the mean over this many heads; 1 is all channels.
        proportional: attention counts every slot as often as it has tokens; see `Method.proportional`.
        seed: of the layout.
    """

    proportional: bool = True

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Matching onto what is near in the layout; see `Matching.matched`."""
        number, device = x.shape[0] * windows.per_image, x.device
        cells, near = cells_of(windows, self.cell), near_cells(windows.side // self.cell)  # [G, s^2], [G, 9]
        chosen = np.array(self.destinations(windows))  # [G]
        others = cells[cells != chosen[:, None]].reshape(len(cells), -1)  # [G, s^2 - 1]
        similarity = self._similarity(x, windows, others, chosen[near])
        place = similarity.argmax(-1).to(torch.int32) + count(len(cells), device)[:, None] * near.shape[1]
        target = take(constant(near, device).flatten(), place)  # [B', G, s^2 - 1]
        source, destination = (
            constant(tokens, device).flatten().expand(number, -1) for tokens in (others, chosen)
        )
        best = snap(similarity.amax(-1))
        removed = self.removed(windows)
        return join(source, destination, best.flatten(1), target.flatten(1), removed, self.reduction)

    def _similarity(
        self, x: Tensor, windows: Windows, source: NDArray[np.int64], around: NDArray[np.int64]
    ) -> Tensor:
        """How like tokens of every cell are to the destinations around: [B', G, s^2 - 1, 9].

        Whether a token is padding is one more channel: padding, whose features are zero, is then like padding
        (similarity 1) and like no picture (0), as in `match`.

        Args:
            x: [B, H, W, C] features, fp32.
            windows: how the block cuts the map.
            source: [G, s^2 - 1], tokens of every cell.
            around: [G, 9], destinations of that cell and of those around it.
        """
        metric = windows.cut(unit(head_mean(x, self.heads)))  # [B', N, c]
        padding = windows.padding(x.shape[0], x.device)
        if padding is not None:
            metric = torch.cat([metric, padding[..., None]], 2)
        mine, theirs = (
            metric.index_select(1, constant(tokens, x.device).flatten()).unflatten(1, tokens.shape)
            for tokens in (source, around)
        )
        return mine @ theirs.transpose(2, 3)


def near_cells(side: int) -> NDArray[np.int64]:
    """Every cell and those around it, in a window of side x side cells.

    Beyond the border the outermost cell stands again, which no first of equal similarities falls on.

    Returns:
        [cells, 9].
    """
    row, column = np.divmod(np.arange(side * side), side)
    places = [
        np.clip(row + down, 0, side - 1) * side + np.clip(column + across, 0, side - 1)
        for down, across in STEPS
    ]
    return np.stack(places, 1)
