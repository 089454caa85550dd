"""The StructSAM of the authors' public code: the calmest token of every cell is a destination."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...choices import Border, Channels, Destination, Gradient, Reduction, Scope
from ..cells import cell_tokens
from ..destination import choose, split
from ..energy import gradient_macs, token_energy
from ..index import lookup
from ..matching import Matching, match
from ..metric import head_mean
from ..plan import MergePlan
from ..windows import Windows


@dataclass(frozen=True)
class Bipartite(Matching):
    """Bipartite matching onto the token of least gradient in every cell.

    What was published with the paper differs from its Algorithm 1: no cell is protected, and a token may
    merge into the destination of any cell of its window, whichever it is most like. Table 5 prices this one.
    Ours: by default the energy is taken over the whole map with replicated borders, as in `StructSAM`, where
    their code takes it within a window and puts zeros around; padding merges with padding, where their code
    sends all of it to the first destination; and `replace`.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        gradient: operator of the energy.
        scope: the energy is taken over the map, or within each window, padding included.
        border: of what it is taken over: replicated, or zeros.
        destination: which token of each cell; `random` is ToMeSD with another random number.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the random choice.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    rate: float
    cell: int = 2
    gradient: Gradient = Gradient.SOBEL
    scope: Scope = Scope.MAP
    border: Border = Border.REPLICATE
    destination: Destination = Destination.MIN
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    seed: int = 0
    channels: Channels = Channels.HEADS

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """Of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def sources(self, windows: Windows) -> int:
        """All tokens but one of every cell; see `Matching.sources`."""
        return windows.tokens - windows.tokens // self.cell**2

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Energy, destinations, matching; see `Matching.matched`."""
        x = head_mean(x, self.heads)
        energy = token_energy(x, windows, self.gradient, self.scope, self.border)  # [B', N]
        cells = cell_tokens(windows.side, self.cell, x.device).expand(energy.shape[0], -1, -1)
        destination, source = split(cells, choose(lookup(energy, cells), self.destination, self.seed))
        return match(
            windows.cut(x),
            source,
            destination,
            self.removed(windows),
            self.reduction,
            padding=windows.padding(x.shape[0], x.device),
        )
