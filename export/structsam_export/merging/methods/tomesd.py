"""ToMeSD: bipartite matching with one destination in every cell (Bolya and Hoffman 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...choices import Channels, Destination, Reduction
from ..layout import FixedLayout, cells_of
from ..windows import Windows


@dataclass(frozen=True)
class ToMeSD(FixedLayout):
    """One token of every cell is a destination; the others may merge into their most similar destination.

    The layout is drawn once, with the numbers of PyTorch's generator as in the package `tomesd`, and is part
    of the exported model: the same for all windows and images, different for every block. `tomesd` draws
    nothing for batches of odd size, which is `first`. Ours, where the StructSAM paper does not say: tokens
    are compared on the mean over heads; padding is similar only to padding, where `tomesd` divides by zero;
    and `replace`.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        destination: a random token of each cell, or the first.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the layout.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
    """

    rate: float
    cell: int = 2
    destination: Destination = Destination.RANDOM
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    seed: int = 0
    channels: Channels = Channels.HEADS

    def destinations(self, windows: Windows) -> list[int]:
        """The destination of every cell, cells in raster order."""
        cells = cells_of(windows, self.cell)
        if self.destination is Destination.FIRST:
            return [int(token) for token in cells[:, 0]]
        # The same numbers as torch.randint: PyTorch and RandomState share the generator (MT19937). Tensors
        # hold no values during a trace.
        raw = np.random.RandomState(self.seed).randint(2**32, size=len(cells), dtype=np.uint32)
        return [int(token) for token in cells[np.arange(len(cells)), raw % self.cell**2]]
