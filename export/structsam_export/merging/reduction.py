"""How the tokens of a slot become one: the rule that a plan merges by.

Every rule reads tokens where they lie: `rule(source [R, C], rows [B', N])` gives the slots [B', K, C], where
`rows` (int32) names the row of `source` that holds each token. No rule scatters features, and no shape
depends on data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .index import count, lookup, take


class Rule(Protocol):
    """Merges tokens into slots."""

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """[R, C] features and [B', N] int32 rows of them to [B', K, C] slots."""
        ...


@dataclass(frozen=True)
class Pick:
    """Every slot is one token; what merged into it is dropped. One gather.

    Args:
        token: [B', K] int32.
    """

    token: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        return take(source, lookup(rows, self.token))


@dataclass(frozen=True)
class CellMean:
    """Slots 0 .. M-1 are means of equally many tokens, slots M .. K-1 are tokens: a gather and a mean.

    Args:
        pooled: [B', M, m] int32, the m tokens whose mean is slot j, for j < M.
        kept: [B', K - M] int32, the token that is slot M + j.
    """

    pooled: Tensor
    kept: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        pooled = take(source, lookup(rows, self.pooled)).mean(-2)
        return torch.cat([pooled, take(source, lookup(rows, self.kept))], 1)


@dataclass(frozen=True)
class Mix:
    """The last D slots are weighted means of a destination and of the sources that merge into it.

    How many sources a destination gets depends on the image, so the mean is a product with a matrix of
    shares: D R C multiply-accumulates, where a scatter with addition would have none, but is a plugin in
    TensorRT. Shares add up to one, so that no sum leaves the range of fp16.

    Args:
        token: [B', K] int32, the token that each slot begins with; destinations last.
        source: [B', R] int32, the tokens that merge.
        own: [B', D] fp32, share of each destination's own token in its mean.
        given: [B', D, R] fp32, share of each source in each destination's mean.
    """

    token: Tensor
    source: Tensor
    own: Tensor
    given: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        tokens = take(source, lookup(rows, self.token))  # [B', K, C]
        kept = tokens.shape[1] - self.own.shape[1]
        moved = take(source, lookup(rows, self.source))  # [B', R, C]
        own, given = self.own[..., None].to(source.dtype), self.given.to(source.dtype)
        return torch.cat([tokens[:, :kept], tokens[:, kept:] * own + given @ moved], 1)


@dataclass(frozen=True)
class Chain:
    """Two rules, the second on the slots of the first.

    Args:
        first: tokens to [B', n, C].
        second: those n slots to [B', K, C].
    """

    first: Rule
    second: Rule

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        slots = self.first(source, rows)
        windows, number = slots.shape[:2]
        own = count(windows * number, slots.device).view(windows, number)
        return self.second(slots.flatten(0, 1), own)


@dataclass(frozen=True)
class Mean:
    """Every slot is the mean of its tokens, whatever the plan. For PyTorch: it scatters features.

    Args:
        slot: [B', N] int32.
        size: [B', K] int32.
    """

    slot: Tensor
    size: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        tokens = take(source, rows)  # [B', N, C]
        total = tokens.new_zeros(*self.size.shape, tokens.shape[2])
        total.scatter_add_(1, self.slot.long()[..., None].expand_as(tokens), tokens)
        return total / self.size[..., None].to(total.dtype)
