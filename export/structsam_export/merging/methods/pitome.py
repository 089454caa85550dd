"""PiToMe: merge tokens that are similar to many others, protect the rest (Tran et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ...choices import Channels, Reduction
from ..cells import largest_first
from ..matching import Matching, match
from ..method import Site
from ..metric import head_mean, snap, unit
from ..plan import MergePlan
from ..windows import Windows

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class PiToMe(Matching):
    """The 2 R tokens of highest energy are matched: tokens of even rank merge into tokens of odd rank.

    Energy is the mean of ELU(cosine - margin) over all tokens: high for tokens with many similar ones. Every
    removed token needs a second one, so rates above 0.5 remove half. Ours, where the StructSAM paper does not
    say: the margin and its decrease with depth are PiToMe's for DeiT (`margin` is that of one block), tokens
    are compared on the mean over heads, and a slot's mean is not weighted, because every block unmerges.

    Args:
        rate: r, the share of tokens to remove; rates above 0.5 remove half.
        margin: cosine from which a neighbour counts, in [-1, 1]; that of block 0, which `at` scales by depth.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: attention heads of the encoder, over which `channels` takes the mean; 1 keeps all channels.
            `Method.at` sets it.
        proportional: attention adds log(size) of a slot to the logits of its key; see `Method.proportional`.
        channels: features that tokens are scored or compared by: all channels, or their mean over heads.
    """

    rate: float
    margin: float = 0.75
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    channels: Channels = Channels.HEADS
    most = 0.5
    reading = "similarity: bright merges"
    fragile = True  # a swap of neighbouring ranks swaps a source with a destination

    def at(self, site: Site) -> Self:
        """The margin falls linearly to 0 after the last block, as PiToMe's for DeiT; see `Method.at`."""
        return replace(super().at(site), margin=self.margin * (1 - site.block / site.depth))

    def scores(self, x: Tensor, windows: Windows) -> Tensor:
        """PiToMe's energy of every token within its window; see `Method.scores`."""
        metric = windows.cut(head_mean(x, self.heads))
        return windows.joined(self.energy(metric, windows.side))

    def sources(self, windows: Windows) -> int:
        """Half of the tokens; see `Matching.sources`."""
        return windows.tokens // 2

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Energy, ranks, matching; see `Matching.matched`."""
        merged = self.removed(windows)
        metric = windows.cut(head_mean(x, self.heads))
        padding = windows.padding(x.shape[0], x.device)
        order = largest_first(self.energy(metric, windows.side, padding))
        return match(
            metric,
            source=order[:, : 2 * merged : 2],
            destination=order[:, 1 : 2 * merged : 2],
            merged=merged,
            reduction=self.reduction,
            protected=order[:, 2 * merged :],
            padding=padding,
        )

    def energy(self, metric: Tensor, side: int, padding: Tensor | None = None) -> Tensor:
        """PiToMe's energy: the mean of ELU(cosine - margin) over all tokens, the token itself included.

        Averaged within rows of the grid, then over rows: one sum of 4096 terms has ten times the rounding
        error on ONNX Runtime's CPU provider, and a swap of neighbouring ranks swaps source and destination.

        Args:
            metric: [B', N, c] features that tokens are compared by.
            side: columns of the window.
            padding: [B', N] fp32, 1 for padding, which has cosine 1 to padding and 0 to the image.

        Returns:
            [B', N].
        """
        direction = unit(metric)
        cosine = direction @ direction.transpose(1, 2)  # [B', N, N]
        if padding is not None:
            cosine = cosine + padding[:, :, None] * padding[:, None]
        return snap(F.elu(cosine - self.margin).view(*metric.shape[:2], -1, side).mean(-1).mean(-1))
