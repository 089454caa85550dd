"""What every merging method returns: which tokens share a slot, and where the slot stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def take(source: Tensor, index: Tensor) -> Tensor:
    """Whole rows of `source`: [R, ...] and an int32 index of any shape give [*index.shape, ...].

    Both forms become ONNX Gather, which takes int32; `source[index]` would become GatherND, which ONNX
    Runtime runs with int64 only. An embedding gathers by an index of any rank without reshaping.
    """
    if source.dim() == 2 and source.is_floating_point():
        return F.embedding(index, source)
    return source.index_select(0, index.flatten()).view(*index.shape, *source.shape[1:])


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[b, ...]]` for every b: [B, N] and an int32 [B, ...] give [B, ...]."""
    offset = count(table.shape[0], table.device).view(-1, *[1] * (index.dim() - 1))
    return take(table.flatten(), index + offset * table.shape[1])


def count(stop: int, device: torch.device) -> Tensor:
    """0, 1, .. stop - 1 as int32, the type of every index here."""
    return torch.arange(stop, dtype=torch.int32, device=device)


@dataclass(frozen=True)
class MergePlan:
    """Where every token of every window goes. All counts are fixed when the model is exported.

    Slots 0 .. M-1 are means of `pooled` tokens, slots M .. K-1 are the `kept` tokens themselves. Merging is
    therefore a gather and a mean, unmerging one gather: no scatter of features, no data-dependent shape.

    Attributes:
        slot: [B', N] int32, merged slot of every original token.
        position: [B', K] int32, grid index (row * side + column, within the window) whose row and column
            stand for each slot in the relative position.
        size: [B', K] int32, how many tokens each slot stands for.
        pooled: [B', M, m] int32, the m tokens whose mean is slot j, for j < M.
        kept: [B', K - M] int32, the token that is slot M + j.
    """

    slot: Tensor
    position: Tensor
    size: Tensor
    pooled: Tensor
    kept: Tensor

    @classmethod
    def identity(cls, windows: int, tokens: int, device: torch.device) -> MergePlan:
        """The plan that changes nothing: every token is its own slot. Merging at rate 0 is this plan."""
        own = count(tokens, device).expand(windows, -1)
        none = own.new_zeros(windows, 0, 1)
        return cls(slot=own, position=own, size=torch.ones_like(own), pooled=none, kept=own)

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
        kept = take(source, lookup(rows, self.kept))
        if not self.pooled.shape[1]:
            return kept
        pooled = take(source, lookup(rows, self.pooled)).mean(-2)
        return torch.cat([pooled, kept], 1)

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
        windows, slots = y.shape[:2]
        row = self.slot + count(windows, y.device)[:, None] * slots  # [B', N]
        return take(y.flatten(0, 1), take(row.flatten(), tokens))
