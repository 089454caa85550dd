"""The encoder as it is exported, and the names of its outputs."""

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
    """SAM's patched image encoder with its plans as extra outputs; float32 in and out at any precision.

    Verification compares the plans. They are intermediate results, so returning them costs nothing; the file
    that is shipped has the embedding as its only output.

    Args:
        encoder: a patched ImageEncoderViT.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.told = [(told.index, told.group) for told in told_plans(encoder)]

    def forward(self, image: Tensor, prior: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode an image, and return the plans.

        Args:
            image: [B, 3, S, S] normalised pixels.
            prior: [B, H, W] in [0, 1], 0 where there is no prompt; for a prompt-aware encoder.

        Returns:
            The embedding [B, 256, H, W], then slot [B', N] and position [B', K] of `told_plans`.
        """
        embedding, plans = embed(self.encoder, image, prior)
        told = [plans[index][group] for index, group in self.told]
        return embedding.float(), *(tensor for plan in told for tensor in (plan.slot, plan.position))


@dataclass(frozen=True)
class Told:
    """A plan among the outputs of the exported encoder: for one group of a block's windows.

    Attributes:
        index: index of the block.
        block: the block.
        group: index of the group among the block's groups.
        windows: the windows of the group, with an empty prior.
    """

    index: int
    block: MergedBlock
    group: int
    windows: Windows

    def name(self, what: str) -> str:
        """Output name of the plan's `slot` or `position`: `blocks.0.slot`, `blocks.0.prompt.slot`."""
        return ".".join(part for part in ("blocks", str(self.index), self.windows.group, what) if part)


def told_plans(encoder: nn.Module) -> list[Told]:
    """The distinct plans of a patched encoder that merge tokens, in the order of blocks.

    All other plans are the identity, or reuse one of these.
    """
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
    """Names of the outputs of PlannedEncoder, in order."""
    told = told_plans(encoder)
    return [EMBEDDING, *(one.name(what) for one in told for what in ("slot", "position"))]
