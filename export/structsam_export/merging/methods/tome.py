"""ToMe: bipartite soft matching of even and odd tokens (Bolya et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...choices import Channels, Reduction
from ..index import count
from ..matching import Matching, match
from ..metric import head_mean
from ..plan import MergePlan
from ..windows import Windows


@dataclass(frozen=True)
class ToMe(Matching):
    """Tokens of even index merge into tokens of odd index, the most similar pairs first.

    A window has an even number of columns, so even columns merge into odd columns. Only half of the tokens
    are sources: rates above 0.5 remove half. Ours, where the StructSAM paper does not say how ToMe was
    adapted to SAM: tokens are compared before queries and keys exist, on the mean over heads; the mean of a
    slot is not weighted, because every block unmerges; padding is similar only to padding, where ToMe divides
    by zero.

    Args:
        rate: r, the share of tokens to remove; rates above 0.5 remove half.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
    """

    rate: float
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    channels: Channels = Channels.HEADS
    most = 0.5

    def sources(self, windows: Windows) -> int:
        """Half of the tokens; see `Matching.sources`."""
        return windows.tokens // 2

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Matching of even with odd tokens; see `Matching.matched`."""
        tokens = count(windows.tokens, x.device).expand(x.shape[0] * windows.per_image, -1)
        metric = windows.cut(head_mean(x, self.heads))
        return match(
            metric,
            source=tokens[:, ::2],
            destination=tokens[:, 1::2],
            merged=self.removed(windows),
            reduction=self.reduction,
            padding=windows.padding(x.shape[0], x.device),
        )
