"""The merge plan that every method returns: which tokens share a slot, and the position of the slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import Reduction
from .index import count, lookup, take
from .reduction import Chain, Mean, Pick, Rule


@dataclass(frozen=True)
class MergePlan:
    """The slot of every token of every window. All counts are fixed when the model is exported.

    B' windows of N tokens and K slots.

    Attributes:
        slot: [B', N] int32, slot of every original token, from 0 to K - 1; unmerging is one gather with it.
        position: [B', K] int32, grid index (row * side + column, within the window) of one token of each
            slot; its row and column are the slot's in the relative position.
        size: [B', K] int32, number of tokens in each slot.
        rule: computes the features of a slot from those of its tokens.
    """

    slot: Tensor
    position: Tensor
    size: Tensor
    rule: Rule

    @classmethod
    def identity(cls, windows: int, tokens: int, device: torch.device) -> MergePlan:
        """The identity plan: every token has its own slot. Merging at rate 0 gives this plan."""
        own = count(tokens, device).expand(windows, -1)
        return cls(slot=own, position=own, size=torch.ones_like(own), rule=Pick(own))

    @classmethod
    def recorded(cls, slot: Tensor, position: Tensor, reduction: Reduction) -> MergePlan:
        """A plan from the recorded indices of another run, to be replayed in PyTorch.

        Replaying separates two causes of a difference between an export and PyTorch: other arithmetic, and
        other plans.

        Args:
            slot: [B', N] int32.
            position: [B', K] int32.
            reduction: reduction of the method that made the plan.
        """
        size = torch.zeros_like(position).scatter_add(1, slot.long(), torch.ones_like(slot))
        rule = Pick(position) if reduction is Reduction.REPLACE else Mean(slot, size)
        return cls(slot, position, size, rule)

    def replacing(self) -> MergePlan:
        """The same plan with the token at `position` in place of the mean: merging is then one gather."""
        return MergePlan(self.slot, self.position, self.size, Pick(self.position))

    def then(self, other: MergePlan) -> MergePlan:
        """This plan followed by another one on its slots.

        Args:
            other: a plan whose tokens are the K slots of this one, and whose `size` counts original tokens.
        """
        return MergePlan(
            slot=lookup(other.slot, self.slot),
            position=lookup(self.position, other.position),
            size=other.size,
            rule=Chain(self.rule, other.rule),
        )

    def merge(self, x: Tensor) -> Tensor:
        """[B', N, C] tokens to [B', K, C] slots (paper section 3.3, cell-wise token merging)."""
        windows, tokens = x.shape[:2]
        own = count(windows * tokens, x.device).view(windows, tokens)
        return self.merge_rows(x.flatten(0, 1), own)

    def merge_rows(self, source: Tensor, rows: Tensor) -> Tensor:
        """`merge` without gathering the windows first.

        Args:
            source: [R, C] features.
            rows: [B', N] int32, the row of `source` that holds each token.

        Returns:
            [B', K, C].
        """
        return self.rule(source, rows)

    def unmerge(self, y: Tensor) -> Tensor:
        """[B', K, C] slots to [B', N, C] tokens: each token gets a copy of its slot."""
        own = count(self.slot.numel(), y.device)
        return self.unmerge_rows(y, own).view(*self.slot.shape, -1)

    def unmerge_rows(self, y: Tensor, tokens: Tensor) -> Tensor:
        """`unmerge` for the given tokens, in the given order.

        Args:
            y: [B', K, C] slots.
            tokens: [R] int32, indices into all B' * N tokens.

        Returns:
            [R, C].
        """
        row = self.slot_rows
        return take(y.flatten(0, 1), take(row.flatten(), tokens))

    @property
    def slot_rows(self) -> Tensor:
        """[B', N] int32, slot of every token as an index into all B' * K slots."""
        windows, slots = self.position.shape
        return self.slot + count(windows, self.slot.device)[:, None] * slots


def unmerge_groups(plans: Sequence[MergePlan], slots: Sequence[Tensor], tokens: Tensor) -> Tensor:
    """`MergePlan.unmerge_rows` for several groups of windows with one plan each, in one gather.

    Args:
        plans: the plan of each group.
        slots: [B', K, C] slots of each group; B' and K differ between groups.
        tokens: [R] int32, indices into the tokens of all groups, the first group's first.

    Returns:
        [R, C].
    """
    if len(plans) == 1:
        return plans[0].unmerge_rows(slots[0], tokens)
    rows, start = [], 0
    for plan in plans:
        rows.append(plan.slot_rows.flatten() + start)
        start += plan.position.numel()
    return take(torch.cat([y.flatten(0, 1) for y in slots]), take(torch.cat(rows), tokens))
