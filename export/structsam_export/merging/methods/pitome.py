"""PiToMe: merge where many tokens are alike, protect the rest (Tran et al. 2024)."""

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
    """The 2 R tokens of highest energy are paired by rank, and each even one merges into an odd one.

    Energy is the mean of ELU(cosine - margin) with all tokens: high where many are alike. Two tokens are
    needed for every one that is removed, so rates above 0.5 remove half. Ours, where the paper does not say:
    the margin and its fall with depth are PiToMe's own for DeiT (`margin` is that of one block), tokens are
    compared on the mean over heads, and a slot's mean is not weighted, because every block unmerges.

    Args:
        rate: r, the share of tokens to remove; more than half is half.
        margin: cosine at which a neighbour begins to count, in [-1, 1]; of block 0 until `at` lets it fall.
        reduction: the mean of a destination and its sources, or the destination alone.
        heads: of the encoder, where that mean is taken; 1 is all channels. `Method.at` sets it.
        proportional: attention counts every slot as often as it has tokens; see `Method`.
        channels: what tokens are judged by: all channels, or the mean over heads.
    """

    rate: float
    margin: float = 0.75
    reduction: Reduction = Reduction.MEAN
    heads: int = 1
    proportional: bool = False
    channels: Channels = Channels.HEADS
    most = 0.5
    reading = "likeness: bright merges"
    fragile = True  # a swap of neighbouring ranks swaps a source with a destination

    def at(self, site: Site) -> Self:
        """With a margin that falls to 0 behind the last block, as PiToMe's own for DeiT; see `Method.at`."""
        return replace(super().at(site), margin=self.margin * (1 - site.block / site.depth))

    def scores(self, x: Tensor, windows: Windows) -> Tensor:
        """How much a token is like all tokens of its window; see `Method.scores`."""
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
        """The mean over all tokens, itself included.

        Taken row by row and then over rows: one sum over 4096 terms rounds ten times worse on ONNX Runtime's
        CPU, and with ranks that alternate between source and destination every swap of neighbours shows.

        Args:
            metric: [B', N, c].
            side: columns of the window.
            padding: [B', N] fp32, 1 for padding, which is like padding and like no picture.

        Returns:
            [B', N].
        """
        direction = unit(metric)
        cosine = direction @ direction.transpose(1, 2)  # [B', N, N]
        if padding is not None:
            cosine = cosine + padding[:, :, None] * padding[:, None]
        return snap(F.elu(cosine - self.margin).view(*metric.shape[:2], -1, side).mean(-1).mean(-1))
