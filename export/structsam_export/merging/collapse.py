"""Collapse whole cells to one slot each, in the order of their scores. Shared by StructSAM and ALGM."""

from __future__ import annotations

import torch
from torch import Tensor

from .index import count, take
from .plan import MergePlan
from .reduction import CellMean


def ordered(cells: Tensor, order: Tensor) -> Tensor:
    """The cells of every window, reordered.

    Args:
        cells: [G, m] int32, one partition of the tokens for all windows, or [B', G, m], one for each window.
        order: [B', G] int32, a permutation of each row.

    Returns:
        [B', G, m] int32.
    """
    if cells.dim() == 2:
        return take(cells, order)
    row = count(order.shape[0], order.device)[:, None] * order.shape[1]
    return take(cells.flatten(0, 1), row + order)


def collapse(tokens: Tensor, place: Tensor) -> MergePlan:
    """The plan in which the first M cells become their means, in that order, and all other tokens are kept.

    Args:
        tokens: [B', G, m] int32, every token once; the cells that merge come first.
        place: [B', M] int32, the token whose position each merged cell takes.

    Returns:
        A plan of K = N - M (m - 1) slots, N = G m: first the merged cells, then the kept tokens.
    """
    (batch, groups, members), merged = tokens.shape, place.shape[1]
    token = tokens.flatten(1)  # cell by cell
    pooled, kept = torch.split(token, [merged * members, (groups - merged) * members], 1)
    return MergePlan(
        slot=_slots(token, merged, members),
        position=torch.cat([place, kept], 1),
        size=torch.cat([torch.full_like(place, members), torch.ones_like(kept)], 1),
        rule=CellMean(pooled.view(batch, merged, members), kept),
    )


def _slots(tokens: Tensor, merged: int, members: int) -> Tensor:
    """Slot of every token: a merged cell shares one, all other tokens have their own.

    Args:
        tokens: [B', N] int32, every token once; tokens of merged cells come first.
        merged: M, number of merged cells.
        members: m, tokens of a cell.

    Returns:
        [B', N] int32, from 0 to K - 1 with K = N - M (m - 1).
    """
    shared = count(merged, tokens.device).repeat_interleave(members)
    own = count(tokens.shape[1] - merged * members, tokens.device) + merged
    slot = torch.cat([shared, own]).expand(tokens.shape[0], -1)
    return torch.zeros_like(slot).scatter(1, tokens.long(), slot)
