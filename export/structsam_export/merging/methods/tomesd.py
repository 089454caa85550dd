"""ToMeSD: bipartite matching onto one token of every cell (Bolya and Hoffman 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...choices import Channels, Destination, Reduction
from ..layout import FixedLayout, cells_of
from ..windows import Windows


@dataclass(frozen=True)
class ToMeSD(FixedLayout):
    """One token of every cell is a destination, all others merge into the destination they are most like.

    The layout is drawn once, by PyTorch's generator as `tomesd` draws it, and is part of the exported model:
    the same for all windows and images, another one for every block. `tomesd` itself draws nothing for
    batches of odd size, which is `first`. Ours, where the paper does not say: tokens are compared on the
    mean over heads; padding is like padding only, where `tomesd` divides by zero; and `replace`.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        destination: a random token of each cell, or the first.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the layout.
        channels: what tokens are judged by: all channels, or the mean over heads.
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
        """The token of every cell that others merge into, cells in raster order."""
        cells = cells_of(windows, self.cell)
        if self.destination is Destination.FIRST:
            return [int(token) for token in cells[:, 0]]
        # The raw numbers of PyTorch's generator, which is NumPy's old one: torch.randint, but for a trace,
        # in which PyTorch's tensors hold no numbers.
        raw = np.random.RandomState(self.seed).randint(2**32, size=len(cells), dtype=np.uint32)
        return [int(token) for token in cells[np.arange(len(cells)), raw % self.cell**2]]
