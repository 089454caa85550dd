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
    """int(r N), the tokens that a bipartite method removes, whatever the last bit of r says."""
    return int(round(rate * tokens, 6))


class Matching(Method):
    """A method that removes as many tokens as it has sources, at most.

    Attributes:
        rate: r, the share of tokens to remove.
    """

    rate: float

    @abstractmethod
    def sources(self, windows: Windows) -> int:
        """S: tokens of one window that may merge."""

    @abstractmethod
    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """The plan, where any token merges; see `Method.plan`."""

    def removed(self, windows: Windows) -> int:
        """R: tokens of one window that merge."""
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
    """Merge the sources that are most like a destination into the destination that they are most like.

    Slots are the protected tokens, then the sources that stay, then the destinations. Every token must be
    named once. Of equal similarities (see `snap`) the first destination and the first source count as larger.

    Args:
        metric: [B', N, c] what tokens are compared by; its length does not count.
        source: [B', S] int32.
        destination: [B', D] int32.
        merged: R, how many sources merge, 1 to S.
        reduction: mean of a destination and its sources, or the destination alone.
        protected: [B', P] int32, tokens that neither merge nor are merged into.
        size: [B', N] int32, how many tokens each already stands for; 1 each if not given.
        padding: [B', N] fp32, 1 for padding; see `with_padding`.

    Returns:
        A plan of N - R slots.
    """
    similarity = unit(lookup_rows(metric, source)) @ unit(lookup_rows(metric, destination)).transpose(1, 2)
    similarity = with_padding(similarity, padding, source, destination)
    best, target = snap(similarity.amax(-1)), similarity.argmax(-1).to(torch.int32)  # [B', S]
    return join(source, destination, best, target, merged, reduction, protected, size)


def with_padding(similarity: Tensor, padding: Tensor | None, source: Tensor, destination: Tensor) -> Tensor:
    """Similarities in which padding is like padding (1) and like no picture (0).

    Its features are zero: as it is, padding would be equally unlike every destination, and all of it would
    merge into the first one, a token of the picture.

    Args:
        similarity: [B', ..., S, D].
        padding: [B', N] fp32, 1 for padding, else 0; None where there is none.
        source: [B', ..., S] int32, tokens.
        destination: [B', ..., D] int32, tokens.
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
    """Merge sources into the destinations that were found for them; see `match` for what is not said here.

    Args:
        best: [B', S], how soon each source merges, the largest first.
        target: [B', S] int32, the destination of each, counted among the destinations.
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
        order: [B', S] int32, places among the sources, the first to merge first.
        target: [B', S] int32, the destination that each source is most like.
    """
    kept, stays = protected.shape[1], order.shape[1] - merged
    rank = inverse(order)
    of_source = torch.where(rank < merged, kept + stays + target, kept + rank - merged)
    of_destination = count(destination.shape[1], order.device) + kept + stays
    of_protected = count(kept, order.device)
    slots = [of_source, of_destination.expand_as(destination), of_protected.expand_as(protected)]
    tokens = torch.cat([source, destination, protected], 1)  # every token once
    return lookup(torch.cat(slots, 1), inverse(tokens))
