"""ALGM: local merging of cells, then global matching of the remaining tokens (Norouzi et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...choices import Channels, Reduction
from ..cells import cell_tokens, largest_first, merged_cells
from ..collapse import collapse, ordered
from ..flatness import likeness
from ..index import count, inverse, lookup
from ..matching import match, removed
from ..method import Method, Site
from ..metric import head_mean
from ..plan import MergePlan
from ..windows import Windows

if TYPE_CHECKING:
    from typing_extensions import Self

LOCAL_ONLY = 5 / 12
"""Share of the depth, from block 0, in which only the local stage runs."""


@dataclass(frozen=True)
class ALGM(Method):
    """The cells with the most similar tokens collapse, then even slots merge into odd ones.

    ALGM merges twice in the whole network, and a threshold decides how many tokens. The StructSAM paper needs
    a rate in every block. Ours: in every block the first stage removes the share `local` of the tokens to
    remove and the second stage the rest; with `local` 1 only the first stage runs, and differs from StructSAM
    only in the score of a cell. Cells of padding have similarity 1 and merge first. Tokens are compared on
    the mean over heads.

    Args:
        rate: r, the share of tokens to remove, in [0, 1 - 1/s^2].
        cell: s, rows and columns of a cell; divides the window.
        local: share of the removed tokens that the first stage removes, in [0, 1].
        reduction: mean weighted by size, or only the token at the slot's position: the last of a cell.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
    """

    rate: float
    cell: int = 2
    local: float = 0.5
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    channels: Channels = Channels.HEADS

    def at(self, site: Site) -> Self:
        """Local stage only in the first blocks: ALGM's global stage is at layer 5 of 12; see `Method.at`."""
        method = super().at(site)
        return replace(method, local=1.0) if site.block < LOCAL_ONLY * site.depth else method

    def counts(self, windows: Windows) -> dict[str, int]:
        """Counts of tokens and of cells; see `Method.counts`."""
        cells = windows.tokens // self.cell**2
        return super().counts(windows) | {"cells": cells, "cells_merged": self.merged(windows)}

    def merged(self, windows: Windows) -> int:
        """M, the number of cells of one window that collapse in the first stage.

        Large enough that the second stage, which removes at most half of the slots, can remove the rest.
        """
        tokens, fewer = windows.tokens, self.cell**2 - 1
        if self.local == 1:
            return merged_cells(self.rate, tokens, self.cell)
        wanted = removed(self.rate, tokens)
        merged = int(self.local * wanted / fewer)
        while wanted - fewer * merged > (tokens - fewer * merged) // 2:
            merged += 1
        return merged

    def matched(self, windows: Windows) -> int:
        """R, the number of slots of the first stage that merge in the second."""
        if self.local == 1:
            return 0
        return removed(self.rate, windows.tokens) - self.merged(windows) * (self.cell**2 - 1)

    def slots(self, windows: Windows) -> int:
        """K = N - M (s^2 - 1) - R; see `Method.slots`."""
        return windows.tokens - self.merged(windows) * (self.cell**2 - 1) - self.matched(windows)

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """Both stages; see `Method.plan`."""
        metric = windows.cut(head_mean(x, self.heads))  # [B', N, c]
        local = self._local(metric, windows)
        plan = local.then(self._global(local, metric, windows)) if self.matched(windows) else local
        return plan.replacing() if self.reduction is Reduction.REPLACE else plan

    def _local(self, metric: Tensor, windows: Windows) -> MergePlan:
        merged = self.merged(windows)
        if not merged:
            return MergePlan.identity(metric.shape[0], windows.tokens, metric.device)
        cells = cell_tokens(windows.side, self.cell, metric.device)
        members = metric.index_select(1, cells.flatten())
        members = members.view(metric.shape[0], *cells.shape, -1)  # [B', G, s * s, c]
        rank = inverse(largest_first(likeness(members)))  # [B', G]
        # Raster order among the cells that merge, and among the others. The second stage alternates sources
        # and destinations: in the order of similarity, a swap of near ties would swap these roles.
        order = torch.where(rank < merged, len(cells), 0) - count(len(cells), metric.device)
        tokens = ordered(cells, largest_first(order.float()))
        return collapse(tokens, place=tokens[:, :merged, -1])

    def _global(self, local: MergePlan, metric: Tensor, windows: Windows) -> MergePlan:
        """Matching of even with odd slots of the first stage, which are collapsed cells, then kept tokens."""
        slots = local.merge(metric)
        place = count(slots.shape[1], slots.device).expand(slots.shape[0], -1)
        padding = windows.padding(slots.shape[0] // windows.per_image, slots.device)
        return match(
            slots,
            source=place[:, ::2],
            destination=place[:, 1::2],
            merged=self.matched(windows),
            reduction=self.reduction,
            size=local.size,
            padding=None if padding is None else lookup(padding, local.position),
        )
