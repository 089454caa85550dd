"""The module that is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from structsam_runtime.contract import EMBEDDING

from ..merging import Windows
from .attention import MergedBlock
from .patch import merged_blocks
from .walk import embed


class PlannedEncoder(nn.Module):
    """SAM's patched image encoder, float32 in and out at any precision, that also tells its plans.

    The plans are what verification compares; they are intermediate results, so telling them costs nothing,
    and the file that ships has no output but the embedding.

    Args:
        encoder: a patched ImageEncoderViT.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.told = [(told.index, told.group) for told in told_plans(encoder)]

    def forward(self, image: Tensor, prior: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode, and tell the plans.

        Args:
            image: [B, 3, S, S] normalised pixels.
            prior: [B, H, W] from 0 to 1 where a prompt is; for a prompt-aware encoder.

        Returns:
            The embedding [B, 256, H, W], then slot [B', N] and position [B', K] of `told_plans`.
        """
        embedding, plans = embed(self.encoder, image, prior)
        told = [plans[index][group] for index, group in self.told]
        return embedding.float(), *(tensor for plan in told for tensor in (plan.slot, plan.position))


@dataclass(frozen=True)
class Told:
    """A plan that the exported encoder tells: of one group of a block's windows, which merges anything.

    Attributes:
        index: number of the block.
        block: itself.
        group: number of the group among the block's.
        windows: the group's, under an empty prior.
    """

    index: int
    block: MergedBlock
    group: int
    windows: Windows

    def name(self, what: str) -> str:
        """Of the `slot` or the `position` in the graph: `blocks.0.slot`, `blocks.0.prompt.slot`."""
        return ".".join(part for part in ("blocks", str(self.index), self.windows.group, what) if part)


def told_plans(encoder: nn.Module) -> list[Told]:
    """The plans of a patched encoder that merge anything, in order; all others are the identity, or one of
    these again."""
    return [
        Told(index, block, number, windows)
        for index, block in enumerate(merged_blocks(encoder))
        for number, windows in enumerate(block.windows_of(_empty(block.windows)).groups)
        if block.decides and block.method.slots(windows) < windows.tokens
    ]


def _empty(windows: Windows) -> Tensor:
    """The prior of one image without prompts."""
    return torch.zeros(1, windows.height, windows.width)


def output_names(encoder: nn.Module) -> list[str]:
    """Names of what PlannedEncoder returns."""
    told = told_plans(encoder)
    return [EMBEDDING, *(one.name(what) for one in told for what in ("slot", "position"))]
