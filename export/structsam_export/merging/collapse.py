"""Cells that collapse to one slot each: what StructSAM and ALGM's local stage do once cells have a score."""

from __future__ import annotations

import torch
from torch import Tensor

from .cells import largest_first
from .index import count, lookup, take
from .plan import MergePlan
from .reduction import CellMean


def first_to_merge(cells: Tensor, score: Tensor) -> Tensor:
    """Cells in the order in which they merge.

    Args:
        cells: [B', G, m] int32, a partition of the tokens.
        score: [B', G], the largest merges first; of equal ones the first.

    Returns:
        [B', G, m] int32.
    """
    order = largest_first(score)
    row = count(order.shape[0], order.device)[:, None] * order.shape[1]
    return take(cells.flatten(0, 1), row + order)


def collapse(tokens: Tensor, member: Tensor) -> MergePlan:
    """The plan in which the first cells become their means, in that order, and all other tokens stay.

    Args:
        tokens: [B', G, m] int32, every token once, cells that merge first.
        member: [B', M] int32 below m, which member stands for each of the M cells that merge.
    """
    merged, members = member.shape[1], tokens.shape[2]
    pooled, kept = tokens[:, :merged], tokens[:, merged:].flatten(1)
    start = count(merged, tokens.device) * members
    destination = lookup(pooled.flatten(1), start + member)
    return MergePlan(
        slot=_slots(tokens, merged),
        position=torch.cat([destination, kept], 1),
        size=torch.cat([torch.full_like(destination, members), torch.ones_like(kept)], 1),
        rule=CellMean(pooled, kept),
    )


def _slots(tokens: Tensor, merged: int) -> Tensor:
    """Slot of every token: a merged cell shares one, all other tokens have their own.

    Args:
        tokens: [B', G, m] int32, every token once, merged cells first.
        merged: M.

    Returns:
        [B', N] int32 below M + (G - M) m.
    """
    batch, groups, members = tokens.shape
    shared = count(merged, tokens.device).repeat_interleave(members)
    own = count((groups - merged) * members, tokens.device) + merged
    slot = torch.cat([shared, own]).expand(batch, -1)
    return torch.zeros_like(slot).scatter(1, tokens.flatten(1).long(), slot)
