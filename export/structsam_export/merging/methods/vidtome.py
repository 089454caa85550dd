"""VidToMe for a single image (after Li et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...choices import Channels, Destination, Reduction
from ..layout import FixedLayout, cells_of
from ..windows import Windows


@dataclass(frozen=True)
class VidToMe(FixedLayout):
    """Interleaved sub-grids stand for the frames of a video; three of them merge into the fourth.

    VidToMe merges the frames of a video into one of them. One image has one frame, so that it would merge
    nothing, or match against the image before. The paper does not say what it ran. Ours: the token at one
    place of every cell is a frame, as near duplicates as successive frames are; one frame, drawn once by
    seed, takes the sources of the others. `random` draws a quarter of the tokens without cells instead,
    which the authors' repository also holds and may be what the paper calls VidToMe. As in VidToMe the
    destination keeps its value, and its global stage, which carries state from call to call, is off.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; s * s frames.
        destination: one frame (`lattice`), or `random` tokens.
        reduction: the destination alone, or the mean of it and its sources.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the frame or the tokens.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    rate: float
    cell: int = 2
    destination: Destination = Destination.LATTICE
    reduction: Reduction = Reduction.REPLACE
    heads: int = 1
    proportional: bool = False
    seed: int = 0
    channels: Channels = Channels.HEADS

    def destinations(self, windows: Windows) -> list[int]:
        """The tokens that others merge into, ascending."""
        random = np.random.default_rng(self.seed)
        if self.destination is Destination.RANDOM:
            number = windows.tokens // self.cell**2
            return sorted(random.permutation(windows.tokens)[:number].tolist())
        frames = cells_of(windows, self.cell)
        return sorted(frames[:, random.integers(self.cell**2)].tolist())
