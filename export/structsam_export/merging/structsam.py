"""StructSAM: Algorithm 1 of the paper, and the ablations of its Table 4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..choices import Destination, Flatness, Gradient, Selection
from .cells import cell_tokens, largest_first, merged_cells
from .energy import gradient_energy
from .plan import MergePlan, count, lookup, take
from .windows import Windows


@dataclass(frozen=True)
class StructSAM:
    """Merge the flattest cells of every window, keep all others (Algorithm 1).

    The energy is taken over the whole map before windows are cut, with replicated borders; padding has
    energy 0, so cells of padding are the flattest there are and merge first.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        gradient: operator of the energy.
        flatness: how a cell's energies become its flatness.
        selection: which cells merge.
        cells: False drops the grid (Table 4, No-Cell): the calmest tokens, wherever they lie, merge in
            groups of s * s neighbours in energy order. The paper does not define it; this reading is ours.
        destination: which token gives a merged cell its position.
        heads: the gradient is taken on the mean over this many heads; 1 is all channels.
        seed: of the random choices, which are drawn once and are the same for every image.
    """

    rate: float
    cell: int = 2
    gradient: Gradient = Gradient.SOBEL
    flatness: Flatness = Flatness.MAX
    selection: Selection = Selection.FLATNESS
    cells: bool = True
    destination: Destination = Destination.MIN
    heads: int = 1
    seed: int = 0

    def slots(self, windows: Windows) -> int:
        """K = N - M (s^2 - 1); see `Method.slots`."""
        return windows.tokens - self.merged(windows) * (self.cell**2 - 1)

    def merged(self, windows: Windows) -> int:
        """M: cells of one window that collapse."""
        return merged_cells(self.rate, windows.tokens, self.cell)

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """Algorithm 1 for every window; see `Method.plan`."""
        if self.rate == 0:
            return MergePlan.identity(x.shape[0] * windows.per_image, windows.tokens, x.device)
        if self.heads > 1:
            x = x.view(*x.shape[:-1], self.heads, -1).mean(-2)
        energy = windows.cut(gradient_energy(x, self.gradient))  # [B', N]
        groups = self._cells(windows, energy) if self.cells else self._sorted_groups(energy)
        order = self._order(lookup(energy, groups))
        return self._collapse(energy, groups, order, self.merged(windows))

    def _cells(self, windows: Windows, energy: Tensor) -> Tensor:
        """The grid of cells, the same in every window: [B', cells, s * s] int32."""
        return cell_tokens(windows.side, self.cell, energy.device).expand(energy.shape[0], -1, -1)

    def _sorted_groups(self, energy: Tensor) -> Tensor:
        """No-Cell: tokens from the calmest to the busiest, s * s at a time: [B', N / s^2, s * s] int32."""
        return largest_first(-energy).view(energy.shape[0], -1, self.cell**2)

    def _order(self, energy: Tensor) -> Tensor:
        """Cells from the first to merge to the last: [B', cells, s * s] energies to [B', cells] int32."""
        if self.selection is Selection.RANDOM:
            flatness = self._random(energy).expand(energy.shape[:2])
        elif self.flatness is Flatness.MEAN:
            flatness = -energy.sqrt().mean(-1)
        else:
            flatness = -energy.amax(-1)
        return largest_first(flatness)

    def _destination(self, energy: Tensor) -> Tensor:
        """Which member stands for each cell: [B', M, s * s] energies to [B', M] int32 below s * s."""
        if self.destination is Destination.RANDOM:
            return (self._random(energy) * self.cell**2).to(torch.int32).expand(energy.shape[:2])
        busiest = self.destination is Destination.MAX
        return (energy.argmax(-1) if busiest else energy.argmin(-1)).to(torch.int32)

    def _random(self, energy: Tensor) -> Tensor:
        """A number in [0, 1) for every cell, drawn by seed: [B', cells, s * s] to [cells]."""
        drawn = np.random.default_rng(self.seed).random(energy.shape[1], dtype=np.float32)
        return torch.tensor(drawn.tolist(), device=energy.device)  # a list, which a trace takes as a constant

    def _collapse(self, energy: Tensor, groups: Tensor, order: Tensor, merged: int) -> MergePlan:
        """The plan in which the first `merged` groups in `order` are one slot each, in that order.

        Args:
            energy: [B', N].
            groups: [B', G, s * s] int32, a partition of the tokens.
            order: [B', G] int32.
            merged: M.
        """
        tokens = _reorder(groups, order)  # [B', G, s*s], the first group to merge first
        pooled, kept = tokens[:, :merged], tokens[:, merged:].flatten(1)
        choice = self._destination(lookup(energy, pooled))  # [B', M]
        start = count(merged, energy.device) * self.cell**2
        destination = lookup(pooled.flatten(1), start + choice)
        return MergePlan(
            slot=_slots(tokens, merged),
            position=torch.cat([destination, kept], 1),
            size=torch.cat([torch.full_like(destination, self.cell**2), torch.ones_like(kept)], 1),
            pooled=pooled,
            kept=kept,
        )


def _reorder(groups: Tensor, order: Tensor) -> Tensor:
    """`groups[b, order[b]]`: [B', G, s * s] and [B', G] int32 give [B', G, s * s]."""
    first = count(order.shape[0], order.device)[:, None] * order.shape[1]
    return take(groups.flatten(0, 1), first + order)


def _slots(tokens: Tensor, merged: int) -> Tensor:
    """Slot of every token: a merged group shares one, all other tokens have their own.

    Args:
        tokens: [B', G, s * s] int32, every token once, merged groups first.
        merged: M.

    Returns:
        [B', N] int32 below M + (G - M) s^2.
    """
    batch, groups, members = tokens.shape
    shared = count(merged, tokens.device).repeat_interleave(members)
    own = count((groups - merged) * members, tokens.device) + merged
    slot = torch.cat([shared, own]).expand(batch, -1)
    return torch.zeros_like(slot).scatter(1, tokens.flatten(1).long(), slot)
