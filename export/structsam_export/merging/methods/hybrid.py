"""Hybrid (ours): flatness decides which cells may merge, similarity which of their tokens merge."""

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

    Ours, between Algorithm 1, which collapses whole cells, and `Bipartite`, which protects none. The token of
    lowest energy in each of the flattest cells is a destination, the other tokens of these cells are sources,
    and the most similar sources merge into a destination of any of these cells.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        spread: number of candidate cells as a multiple of the M cells that Algorithm 1 collapses; at least 1.
            At 1 nearly all of their tokens merge; the larger it is, the more similarity decides.
        gradient: operator that computes the energy.
        scope: computes the energy over the map, or within each window, padding included.
        border: padding of that map or window for the gradient: replicated tokens, or zeros.
        flatness: score that ranks cells.
        destination: the token of each cell, by its energy, that others may merge into.
        reduction: the destination alone, or the mean of it and its sources.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the random destinations.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
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
        """Multiply-accumulates of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def candidates(self, windows: Windows) -> int:
        """Number of cells of one window whose tokens may merge: `spread` M, rounded up."""
        wanted = self.spread * merged_cells(self.rate, windows.tokens, self.cell)
        return min(math.ceil(round(wanted, 6)), windows.tokens // self.cell**2)

    def sources(self, windows: Windows) -> int:
        """All tokens except one of each candidate cell; see `Matching.sources`."""
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
