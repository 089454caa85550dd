"""Bipartite soft matching: the step that ToMe, ToMeSD, PiToMe, VidToMe, ALGM and `bipartite` share."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..choices import Reduction
from .cells import largest_first
from .index import count, inverse, lookup, lookup_rows
from .method import Method
from .metric import snap, unit
from .plan import MergePlan
from .reduction import Mix, Pick
from .windows import Windows


def removed(rate: float, tokens: int) -> int:
    """int(r N), the tokens that a bipartite method removes; robust to the rounding error of r N in fp64."""
    return int(round(rate * tokens, 6))


class Matching(Method):
    """A method that merges sources into destinations; it removes at most as many tokens as it has sources.

    Attributes:
        rate: r, the share of tokens to remove.
    """

    rate: float

    @abstractmethod
    def sources(self, windows: Windows) -> int:
        """S, the number of tokens of one window that may merge."""

    @abstractmethod
    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """The plan if at least one token merges; see `Method.plan`."""

    def removed(self, windows: Windows) -> int:
        """R, the number of tokens of one window that merge."""
        return min(removed(self.rate, windows.tokens), self.sources(windows))

    def slots(self, windows: Windows) -> int:
        """K = N - R; see `Method.slots`."""
        return windows.tokens - self.removed(windows)

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """See `Method.plan`."""
        if not self.removed(windows):
            return MergePlan.identity(x.shape[0] * windows.per_image, windows.tokens, x.device)
        return self.matched(x, windows)


def match(
    metric: Tensor,
    source: Tensor,
    destination: Tensor,
    merged: int,
    reduction: Reduction,
    protected: Tensor | None = None,
    size: Tensor | None = None,
    padding: Tensor | None = None,
) -> MergePlan:
    """Bipartite soft matching (Bolya et al. 2023): merge the R most similar pairs.

    Every source is paired with its most similar destination; the R sources with the highest similarity merge
    into theirs. Slots are ordered: protected tokens, sources that are kept, destinations. Every token appears
    exactly once among `source`, `destination` and `protected`. Of equal similarities (see `snap`) the first
    destination and the first source win.

    Args:
        metric: [B', N, c] features that tokens are compared by (cosine similarity).
        source: [B', S] int32, token indices.
        destination: [B', D] int32, token indices.
        merged: R, the number of sources that merge, 1 to S.
        reduction: mean of a destination and its sources, or the destination alone.
        protected: [B', P] int32, tokens that neither merge nor are merged into.
        size: [B', N] int32, how many original tokens each token represents; 1 each if not given.
        padding: [B', N] fp32, 1 for padding; see `with_padding`.

    Returns:
        A plan of K = N - R slots.
    """
    similarity = unit(lookup_rows(metric, source)) @ unit(lookup_rows(metric, destination)).transpose(1, 2)
    similarity = with_padding(similarity, padding, source, destination)
    best, target = snap(similarity.amax(-1)), similarity.argmax(-1).to(torch.int32)  # [B', S]
    return join(source, destination, best, target, merged, reduction, protected, size)


def with_padding(similarity: Tensor, padding: Tensor | None, source: Tensor, destination: Tensor) -> Tensor:
    """Similarities in which padding has similarity 1 to padding and 0 to tokens of the image.

    Features of padding are zero. Without this rule padding has similarity 0 to every destination, and all of
    it merges into the first one, a token of the image.

    Args:
        similarity: [B', ..., S, D], cosines; 0 for padding.
        padding: [B', N] fp32, 1 for padding, else 0; None if no window has padding.
        source: [B', ..., S] int32, token indices.
        destination: [B', ..., D] int32, token indices.

    Returns:
        [B', ..., S, D].
    """
    if padding is None:
        return similarity
    return similarity + lookup(padding, source)[..., None] * lookup(padding, destination)[..., None, :]


def join(
    source: Tensor,
    destination: Tensor,
    best: Tensor,
    target: Tensor,
    merged: int,
    reduction: Reduction,
    protected: Tensor | None = None,
    size: Tensor | None = None,
) -> MergePlan:
    """Merge the R best sources into their destinations; see `match` for the other arguments.

    Args:
        best: [B', S], score of each source; the largest merge first.
        target: [B', S] int32, the destination of each source as an index into `destination`.

    Returns:
        A plan of K = N - R slots.
    """
    if protected is None:
        protected = source[:, :0]
    order = largest_first(best) if merged < source.shape[1] else count(merged, best.device).expand_as(target)
    moved, stays = order[:, :merged], order[:, merged:]
    token = torch.cat([protected, lookup(source, stays), destination], 1)  # [B', K]
    first = protected.shape[1] + stays.shape[1]  # slot of the first destination
    slot = _slots(source, destination, protected, order, target, merged)
    hit = lookup(target, moved)[:, None] == count(destination.shape[1], target.device)[:, None]  # [B', D, R]
    if size is None:
        weight, own = hit.to(torch.int32), torch.ones_like(destination)
        before = torch.ones_like(token)[:, :first]
    else:
        weight = hit.to(torch.int32) * lookup(lookup(size, source), moved)[:, None]
        own, before = lookup(size, destination), lookup(size, token[:, :first])
    total = own + weight.sum(-1, dtype=torch.int32)  # [B', D]
    share = 1 / total.float()
    rule = (
        Pick(token)
        if reduction is Reduction.REPLACE
        else Mix(token, lookup(source, moved), own * share, weight * share[..., None])
    )
    return MergePlan(slot, position=token, size=torch.cat([before, total], 1), rule=rule)


def _slots(
    source: Tensor, destination: Tensor, protected: Tensor, order: Tensor, target: Tensor, merged: int
) -> Tensor:
    """Slot of every token, [B', N] int32; see `match` for the order of slots and the arguments.

    Args:
        order: [B', S] int32, indices into `source`; the first `merged` of them merge.
        target: [B', S] int32, the most similar destination of each source, an index into `destination`.
    """
    kept, stays = protected.shape[1], order.shape[1] - merged
    rank = inverse(order)
    of_source = torch.where(rank < merged, kept + stays + target, kept + rank - merged)
    of_destination = count(destination.shape[1], order.device) + kept + stays
    of_protected = count(kept, order.device)
    slots = [of_source, of_destination.expand_as(destination), of_protected.expand_as(protected)]
    tokens = torch.cat([source, destination, protected], 1)  # every token once
    return lookup(torch.cat(slots, 1), inverse(tokens))
