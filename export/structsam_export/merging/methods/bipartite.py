"""StructSAM as in the authors' public code: the token of lowest energy in every cell is a destination."""

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
    """Bipartite matching with the token of lowest energy in every cell as destination.

    The authors' code differs from Algorithm 1 of the paper: no cell is protected, and a token merges into the
    most similar destination of its window, in any cell. Table 5 of the paper counts this method. Ours: by
    default the energy is computed over the whole map with replicated borders, as in `StructSAM` (their code:
    within a window, with zeros around it); padding merges with padding (their code: all of it merges into the
    first destination); and `replace`.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        gradient: operator that computes the energy.
        scope: computes the energy over the map, or within each window, padding included.
        border: padding of that map or window for the gradient: replicated tokens, or zeros.
        destination: the token of each cell by its energy; `random` is ToMeSD with other random numbers.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the random destinations.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
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
        """Multiply-accumulates of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def sources(self, windows: Windows) -> int:
        """All tokens except one of every cell; see `Matching.sources`."""
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
