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
    """Merge the flattest cells of every window, keep all others (Algorithm 1 of the paper).

    By default the energy is computed over the whole map before the window partition, with replicated borders;
    padding has energy 0, so cells of padding are the flattest and merge first.

    Prompt-aware (section 3.3): cells under a prior (see `PromptedWindows`) merge last, in the order of the
    highest prior among their tokens, then of their flatness; and the `prompt_windows` windows of every image
    with the most prior merge at `rate_prompt`.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        gradient: operator that computes the energy.
        scope: computes the energy over the map, or within each window, padding included.
        border: padding of that map or window for the gradient: replicated tokens, or zeros.
        flatness: score that ranks cells: from their largest or mean energy, or from their features (ours).
        selection: merge the flattest cells, or random ones.
        cells: False drops the grid (Table 4, No-Cell): the tokens of lowest energy in the window merge in
            groups of s * s, in energy order. The paper does not define it; this interpretation is ours.
        destination: the token of a cell, by its energy, whose position the merged cell takes.
        place: relative position of a merged cell: its destination's, or the mean of its tokens' (ours).
        reduction: a merged cell becomes its mean, as in the paper, or its destination token (ours).
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        seed: seed of the random choices, which are drawn once and are the same for every image.
        prompt_windows: number of windows of an image that merge at `rate_prompt`; 0 if it has only one.
        rate_prompt: r of these windows.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
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
        """A mean position needs cells; see `Method.conflict`."""
        homeless = self.place is Place.MEAN and not self.cells
        return "place=mean needs cells, and cells=no has none" if homeless else ""

    @property
    def ordered(self) -> bool:
        """Without cells, groups are consecutive tokens in the order of energy; see `Method.ordered`."""
        return not self.cells

    @property
    def fragile(self) -> bool:
        """As `ordered`; see `Method.fragile`."""
        return self.ordered

    @property
    def takes_prior(self) -> bool:
        """With cells, those under a prior merge last; see `Method.takes_prior`."""
        return self.cells

    @property
    def has_kernels(self) -> bool:
        """With the options of Algorithm 1, at any rate; see `Method.has_kernels`."""
        plain = StructSAM(self.rate, self.cell, channels=self.channels, heads=self.heads, seed=self.seed)
        return self == plain

    @property
    def footprint(self) -> int:
        """The side of a cell if it takes its mean position; see `Method.footprint`."""
        return self.cell if self.place is Place.MEAN else 1

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """Multiply-accumulates of the gradient; see `Method.energy_macs`."""
        return gradient_macs(windows, channels // self.heads, self.gradient, self.scope)

    def slots(self, windows: Windows) -> int:
        """K = N - M (s^2 - 1); see `Method.slots`."""
        return windows.tokens - self.merged(windows) * (self.cell**2 - 1)

    def counts(self, windows: Windows) -> dict[str, int]:
        """Counts of tokens and of cells; see `Method.counts`."""
        cells = windows.tokens // self.cell**2
        return super().counts(windows) | {"cells": cells, "cells_merged": self.merged(windows)}

    def scores(self, x: Tensor, windows: Windows) -> Tensor:
        """The gradient's magnitude G; see `Method.scores`."""
        return gradient_energy(head_mean(x, self.heads), self.gradient, self.border).sqrt()

    def merged(self, windows: Windows) -> int:
        """M, the number of cells of one window that collapse."""
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
            late = lookup(levels, groups).amax(-1)  # a cell merges as a whole: its highest level decides
            score = lexicographic(-late, place=inverse(largest_first(score)))
        order = largest_first(score)
        tokens = ordered(cells, order)
        if self.destination is Destination.RANDOM:  # drawn for each rank
            place = member_of(tokens[:, :merged], choose(energy[:, :merged], self.destination, self.seed))
        else:  # chosen before the cells are ordered, so that only the choice is reordered, not the energies
            place = lookup(member_of(groups, choose(energy, self.destination, self.seed)), order)[:, :merged]
        plan = collapse(tokens, place)
        return plan.replacing() if self.reduction is Reduction.REPLACE else plan

    def _energy(self, x: Tensor, windows: Windows, tokens: Tensor | None = None) -> Tensor:
        """Energy of all tokens, or of the given ones; see `token_energy`."""
        return token_energy(x, windows, self.gradient, self.scope, self.border, tokens)

    def _sorted(self, x: Tensor, windows: Windows) -> Tensor:
        """No-Cell: tokens in ascending order of energy, in groups of s * s: [B', N / s^2, s * s] int32."""
        energy = self._energy(x, windows)
        return largest_first(-energy).view(energy.shape[0], -1, self.cell**2)

    def _score(self, groups: Tensor, energy: Tensor, x: Tensor, windows: Windows) -> Tensor:
        """Score of each cell, [B', G]; the largest merge first; see `flatness`."""
        if self.selection is Selection.RANDOM:
            return draw(groups.shape[1], self.seed, energy.device).expand(groups.shape[:2])
        return flatness(self.flatness, energy, groups, x, windows)
