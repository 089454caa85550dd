"""StructSAM: Algorithm 1 of the paper, and the ablations of its Table 4."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...choices import Border, Channels, Destination, Flatness, Gradient, Place, Reduction, Scope, Selection
from ..cells import cell_tokens, largest_first, lexicographic, member_of, merged_cells
from ..collapse import collapse, ordered
from ..destination import choose, draw
from ..energy import gradient_energy, gradient_macs, token_energy
from ..flatness import flatness
from ..index import inverse, lookup
from ..method import Method
from ..metric import head_mean
from ..plan import MergePlan
from ..prompted import PROMPT
from ..windows import Windows


@dataclass(frozen=True)
class StructSAM(Method):
    """Merge the flattest cells of every window, keep all others (Algorithm 1).

    By default the energy is taken over the whole map before windows are cut, with replicated borders; padding
    has energy 0, so cells of padding are the flattest there are and merge first.

    Prompt-aware (section 3.3): cells under a prior (see `PromptedWindows`) merge last, in the order of the
    highest prior among their tokens and then of their flatness; and `prompt_windows` windows of every image,
    those with the most prior, merge at a rate of their own.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        gradient: operator of the energy.
        scope: the energy is taken over the map, or within each window, padding included.
        border: of what it is taken over: replicated, or zeros.
        flatness: by what cells are ranked: their largest or mean energy, or what is alike in their features.
        selection: which cells merge.
        cells: False drops the grid (Table 4, No-Cell): the calmest tokens, wherever they lie, merge in
            groups of s * s neighbours in energy order. The paper does not define it; this reading is ours.
        destination: which token gives a merged cell its position.
        place: where the relative position sees a merged cell: there, or at the mean of its tokens (ours).
        reduction: a merged cell becomes its mean, as the paper says, or its destination (ours).
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        seed: of the random choices, which are drawn once and are the same for every image.
        prompt_windows: how many windows of an image merge at `rate_prompt`; 0 where there is only one.
        rate_prompt: r of those.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    rate: float
    cell: int = 2
    gradient: Gradient = Gradient.SOBEL
    scope: Scope = Scope.MAP
    border: Border = Border.REPLICATE
    flatness: Flatness = Flatness.MAX
    selection: Selection = Selection.FLATNESS
    cells: bool = True
    destination: Destination = Destination.MIN
    place: Place = Place.DESTINATION
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    seed: int = 0
    prompt_windows: int = 0
    rate_prompt: float = 0.0
    channels: Channels = Channels.FULL

    reading = "gradient: bright stays"

    @property
    def conflict(self) -> str:
        """A mean place is that of a cell; see `Method.conflict`."""
        homeless = self.place is Place.MEAN and not self.cells
        return "place=mean is that of a cell, and cells=no has none" if homeless else ""

    @property
    def ordered(self) -> bool:
        """Without cells, groups are cut from the order of all energies; see `Method.ordered`."""
        return not self.cells

    @property
    def fragile(self) -> bool:
        """Where groups are cut from an order; see `Method.fragile`."""
        return self.ordered

    @property
    def takes_prior(self) -> bool:
        """Cells under a prior merge last; see `Method.takes_prior`."""
        return self.cells

    @property
    def has_kernels(self) -> bool:
        """With the options of Algorithm 1, whatever the rate; see `Method.has_kernels`."""
        plain = StructSAM(self.rate, self.cell, channels=self.channels, heads=self.heads, seed=self.seed)
        return self == plain

    @property
    def footprint(self) -> int:
        """A merged slot is a whole cell; see `Method`."""
        return self.cell if self.place is Place.MEAN else 1

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """Of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def slots(self, windows: Windows) -> int:
        """K = N - M (s^2 - 1); see `Method.slots`."""
        return windows.tokens - self.merged(windows) * (self.cell**2 - 1)

    def counts(self, windows: Windows) -> dict[str, int]:
        """And of cells; see `Method.counts`."""
        cells = windows.tokens // self.cell**2
        return super().counts(windows) | {"cells": cells, "cells_merged": self.merged(windows)}

    def scores(self, x: Tensor, windows: Windows) -> Tensor:
        """The gradient's magnitude G; see `Method.scores`."""
        return gradient_energy(head_mean(x, self.heads), self.gradient, self.border).sqrt()

    def merged(self, windows: Windows) -> int:
        """M: cells of one window that collapse."""
        rate = self.rate_prompt if windows.group == PROMPT else self.rate
        return merged_cells(rate, windows.tokens, self.cell)

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """Algorithm 1 for every window; see `Method.plan`."""
        merged = self.merged(windows)
        if not merged:
            return MergePlan.identity(x.shape[0] * windows.per_image, windows.tokens, x.device)
        x = head_mean(x, self.heads)
        cells = cell_tokens(windows.side, self.cell, x.device) if self.cells else self._sorted(x, windows)
        groups = cells.expand(x.shape[0] * windows.per_image, -1, -1)  # [B', cells, s * s]
        energy = self._energy(x, windows, groups)
        score = self._score(groups, energy, x, windows)
        if (levels := windows.levels) is not None:
            late = lookup(levels, groups).amax(-1)  # a cell merges as a whole: its most wanted token decides
            score = lexicographic(-late, place=inverse(largest_first(score)))
        order = largest_first(score)
        tokens = ordered(cells, order)
        if self.destination is Destination.RANDOM:  # drawn for a rank
            place = member_of(tokens[:, :merged], choose(energy[:, :merged], self.destination, self.seed))
        else:  # chosen in all cells, before they are ordered, so that only the choice is
            place = lookup(member_of(groups, choose(energy, self.destination, self.seed)), order)[:, :merged]
        plan = collapse(tokens, place)
        return plan.replacing() if self.reduction is Reduction.REPLACE else plan

    def _energy(self, x: Tensor, windows: Windows, tokens: Tensor | None = None) -> Tensor:
        """Of all tokens, or of those that are wanted; see `token_energy`."""
        return token_energy(x, windows, self.gradient, self.scope, self.border, tokens)

    def _sorted(self, x: Tensor, windows: Windows) -> Tensor:
        """No-Cell: tokens from the calmest to the busiest, s * s at a time: [B', N / s^2, s * s] int32."""
        energy = self._energy(x, windows)
        return largest_first(-energy).view(energy.shape[0], -1, self.cell**2)

    def _score(self, groups: Tensor, energy: Tensor, x: Tensor, windows: Windows) -> Tensor:
        """How soon each cell merges, the largest first; see `flatness`."""
        if self.selection is Selection.RANDOM:
            return draw(groups.shape[1], self.seed, energy.device).expand(groups.shape[:2])
        return flatness(self.flatness, energy, groups, x, windows)
