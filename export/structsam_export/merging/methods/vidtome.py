"""VidToMe, adapted to a single image (after Li et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...choices import Channels, Destination, Reduction
from ..layout import FixedLayout, cells_of
from ..windows import Windows


@dataclass(frozen=True)
class VidToMe(FixedLayout):
    """Interleaved sub-grids act as the frames of a video; three of them merge into the fourth.

    VidToMe merges the frames of a video into one of them. With one image it would merge nothing, or match
    with the previous image; the StructSAM paper does not say what it ran. Ours: the tokens at one place of
    every cell form a frame, since neighbouring tokens are as similar as successive frames; one frame, drawn
    once from the seed, holds the destinations. `random` draws 1 / s^2 of the tokens without cells instead;
    the authors' repository also has it, and it may be what the paper calls VidToMe. As in VidToMe the
    destination keeps its value; VidToMe's global stage, which carries state between calls, is off.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; there are s * s frames.
        destination: one frame (`lattice`), or random tokens (`random`).
        reduction: the destination alone, or the mean of it and its sources.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the choice of the frame or of the tokens.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
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
        """The destinations, in ascending order."""
        random = np.random.default_rng(self.seed)
        if self.destination is Destination.RANDOM:
            number = windows.tokens // self.cell**2
            return sorted(random.permutation(windows.tokens)[:number].tolist())
        frames = cells_of(windows, self.cell)
        return sorted(frames[:, random.integers(self.cell**2)].tolist())
