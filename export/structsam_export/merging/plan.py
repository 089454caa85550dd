"""What every merging method returns: which tokens share a slot, and where the slot stands."""

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
    """Where every token of every window goes. All counts are fixed when the model is exported.

    Attributes:
        slot: [B', N] int32, merged slot of every original token: unmerging is one gather with it.
        position: [B', K] int32, grid index (row * side + column, within the window) whose row and column
            stand for each slot in the relative position; one of the slot's own tokens.
        size: [B', K] int32, how many tokens each slot stands for.
        rule: how the tokens of a slot become one.
    """

    slot: Tensor
    position: Tensor
    size: Tensor
    rule: Rule

    @classmethod
    def identity(cls, windows: int, tokens: int, device: torch.device) -> MergePlan:
        """The plan that changes nothing: every token is its own slot. Merging at rate 0 is this plan."""
        own = count(tokens, device).expand(windows, -1)
        return cls(slot=own, position=own, size=torch.ones_like(own), rule=Pick(own))

    @classmethod
    def recorded(cls, slot: Tensor, position: Tensor, reduction: Reduction) -> MergePlan:
        """The plan that another run told, for PyTorch.

        It separates the two ways in which an export can differ: other arithmetic, and other plans.

        Args:
            slot: [B', N] int32.
            position: [B', K] int32.
            reduction: of the method that decided.
        """
        size = torch.zeros_like(position).scatter_add(1, slot.long(), torch.ones_like(slot))
        rule = Pick(position) if reduction is Reduction.REPLACE else Mean(slot, size)
        return cls(slot, position, size, rule)

    def replacing(self) -> MergePlan:
        """The same plan with the token at `position` in place of the mean: merging is then one gather."""
        return MergePlan(self.slot, self.position, self.size, Pick(self.position))

    def then(self, other: MergePlan) -> MergePlan:
        """This plan, and another one on its slots.

        Args:
            other: of K tokens, whose sizes already count what this plan merged.
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
        """`merge`, reading the tokens where they lie.

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
        """`unmerge` for chosen tokens, in the order in which they are asked for.

        Args:
            y: [B', K, C] slots.
            tokens: [R] int32, numbers among all B' * N tokens.

        Returns:
            [R, C].
        """
        row = self.slot_rows
        return take(y.flatten(0, 1), take(row.flatten(), tokens))

    @property
    def slot_rows(self) -> Tensor:
        """[B', N] int32, slot of every token among all B' * K."""
        windows, slots = self.position.shape
        return self.slot + count(windows, self.slot.device)[:, None] * slots


def unmerge_groups(plans: Sequence[MergePlan], slots: Sequence[Tensor], tokens: Tensor) -> Tensor:
    """`MergePlan.unmerge_rows` over windows that are in groups, each with its own plan: still one gather.

    Args:
        plans: of each group.
        slots: [B', K, C] of each group; B' and K are the group's own.
        tokens: [R] int32, numbers among all tokens of the first group, then of the second, and so on.

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
