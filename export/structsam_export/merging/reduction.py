"""Rules that compute the features of a slot from those of its tokens.

Every rule gathers from the raster map: `rule(source [R, C], rows [B', N])` gives the slots [B', K, C]; `rows`
(int32) is the row of `source` that holds each token. Rules that are exported scatter no features, and no
shape depends on data.

Rules are compared by identity (`eq=False`), as the tensors that they hold: `torch.compile` up to PyTorch 2.11
hashes whatever is called, before it has its attributes.
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
        """Features [R, C] and rows [B', N] (int32 indices into them) to slots [B', K, C]."""
        ...


@dataclass(frozen=True, eq=False)
class Pick:
    """Every slot is one token; the tokens merged into it are dropped. One gather.

    Args:
        token: [B', K] int32, token index of each slot.
    """

    token: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        return take(source, lookup(rows, self.token))


@dataclass(frozen=True, eq=False)
class CellMean:
    """Slots 0 .. M-1 are means of m tokens each, slots M .. K-1 are single tokens: a gather and a mean.

    Args:
        pooled: [B', M, m] int32, the m tokens whose mean is slot j, for j < M.
        kept: [B', K - M] int32, the token of slot M + j.
    """

    pooled: Tensor
    kept: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        pooled = take(source, lookup(rows, self.pooled)).mean(-2)
        return torch.cat([pooled, take(source, lookup(rows, self.kept))], 1)


@dataclass(frozen=True, eq=False)
class Mix:
    """The last D slots are weighted means of a destination and of the sources that merge into it.

    The number of sources of a destination depends on the image, so the mean is a matrix product with weights:
    D R C multiply-accumulates. A scatter with addition would have none, but needs a plugin in TensorRT. The
    weights of a slot sum to one, so no sum leaves the range of fp16.

    Args:
        token: [B', K] int32, the kept token or destination of each slot; destinations last.
        source: [B', R] int32, the tokens that merge.
        own: [B', D] fp32, weight of each destination token in its mean.
        given: [B', D, R] fp32, weight of each source in each destination's mean; 0 if it merges elsewhere.
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


@dataclass(frozen=True, eq=False)
class Chain:
    """Two rules in sequence, the second on the slots of the first.

    Args:
        first: tokens to slots [B', n, C].
        second: those n slots to slots [B', K, C].
    """

    first: Rule
    second: Rule

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        slots = self.first(source, rows)
        windows, number = slots.shape[:2]
        own = count(windows * number, slots.device).view(windows, number)
        return self.second(slots.flatten(0, 1), own)


@dataclass(frozen=True, eq=False)
class Mean:
    """Every slot is the mean of its tokens, for any plan. For PyTorch only: it scatters features.

    Args:
        slot: [B', N] int32, see `MergePlan.slot`.
        size: [B', K] int32, see `MergePlan.size`.
    """

    slot: Tensor
    size: Tensor

    def __call__(self, source: Tensor, rows: Tensor) -> Tensor:
        """See `Rule`."""
        tokens = take(source, rows)  # [B', N, C]
        total = tokens.new_zeros(*self.size.shape, tokens.shape[2])
        total.scatter_add_(1, self.slot.long()[..., None].expand_as(tokens), tokens)
        return total / self.size[..., None].to(total.dtype)
