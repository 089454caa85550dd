"""Flatness protects, similarity assigns: a method of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...choices import Border, Channels, Destination, Flatness, Gradient, Reduction, Scope
from ..cells import cell_tokens, largest_first, merged_cells
from ..collapse import ordered
from ..destination import choose, split
from ..energy import gradient_macs, token_energy
from ..flatness import flatness
from ..index import lookup
from ..matching import Matching, match
from ..metric import head_mean
from ..plan import MergePlan
from ..windows import Windows


@dataclass(frozen=True)
class Hybrid(Matching):
    """Bipartite matching among the tokens of the flattest cells; all other cells are kept.

    Ours, between Algorithm 1, whose cells must collapse whole, and `Bipartite`, which protects nothing. The
    calmest token of each of the flattest cells is a destination, the others are sources, and those most like
    a destination merge into it, of whichever cell that is.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        spread: how many cells may merge, in multiples of the M that Algorithm 1 would collapse; at least 1,
            where nearly all of their tokens must merge, and the larger, the more similarity decides.
        gradient: operator of the energy.
        scope: the energy is taken over the map, or within each window, padding included.
        border: of what it is taken over: replicated, or zeros.
        flatness: by what cells are ranked.
        destination: which token of each cell others may merge into.
        reduction: the destination alone, or the mean of it and its sources.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the random choice.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    rate: float
    cell: int = 2
    spread: float = 1.15
    gradient: Gradient = Gradient.SOBEL
    scope: Scope = Scope.MAP
    border: Border = Border.REPLICATE
    flatness: Flatness = Flatness.MAX
    destination: Destination = Destination.MIN
    reduction: Reduction = Reduction.REPLACE
    heads: int = 1
    proportional: bool = False
    seed: int = 0
    channels: Channels = Channels.HEADS

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """Of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def candidates(self, windows: Windows) -> int:
        """Cells of one window whose tokens may merge: the least whole number of at least `spread` M."""
        wanted = self.spread * merged_cells(self.rate, windows.tokens, self.cell)
        return min(math.ceil(round(wanted, 6)), windows.tokens // self.cell**2)

    def sources(self, windows: Windows) -> int:
        """All tokens but one of each of those cells; see `Matching.sources`."""
        return self.candidates(windows) * (self.cell**2 - 1)

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Energy, flatness, destinations, matching; see `Matching.matched`."""
        x = head_mean(x, self.heads)
        energy = token_energy(x, windows, self.gradient, self.scope, self.border)  # [B', N]
        cells = cell_tokens(windows.side, self.cell, x.device)
        groups = cells.expand(energy.shape[0], -1, -1)
        score = flatness(self.flatness, lookup(energy, groups), groups, x, windows)
        tokens = ordered(cells, largest_first(score))
        candidates = self.candidates(windows)
        flat, kept = tokens[:, :candidates], tokens[:, candidates:].flatten(1)
        destination, source = split(flat, choose(lookup(energy, flat), self.destination, self.seed))
        return match(
            windows.cut(x),
            source,
            destination,
            self.removed(windows),
            self.reduction,
            protected=kept,
            padding=windows.padding(x.shape[0], x.device),
        )
