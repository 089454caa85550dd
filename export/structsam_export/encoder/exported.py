"""The module that is exported."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..merging import MergePlan
from .attention import MergedBlock
from .patch import merged_blocks


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

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode, and tell the plans.

        Args:
            image: [B, 3, S, S] normalised pixels.

        Returns:
            The embedding [B, 256, S/16, S/16], then slot [B', N] and position [B', K] of `planned_blocks`.
        """
        encoder, plans = self.encoder, list[MergePlan]()
        x = encoder.patch_embed(image.to(encoder.patch_embed.proj.weight.dtype))  # [B, H, W, C]
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed
        for block in encoder.blocks:
            x, plan = block.forward_with_plan(x)
            plans.append(plan)
        embedding = encoder.neck(x.permute(0, 3, 1, 2))
        told = [plans[index] for index, _ in planned_blocks(encoder)]
        return embedding.float(), *(tensor for plan in told for tensor in (plan.slot, plan.position))


def planned_blocks(encoder: nn.Module) -> list[tuple[int, MergedBlock]]:
    """The blocks that merge anything, with their numbers; the others' plans are the identity."""
    blocks = enumerate(merged_blocks(encoder))
    return [(i, block) for i, block in blocks if block.method.slots(block.windows) < block.windows.tokens]


def output_names(encoder: nn.Module) -> list[str]:
    """Names of what PlannedEncoder returns."""
    plans = [f"blocks.{i}.{what}" for i, _ in planned_blocks(encoder) for what in ("slot", "position")]
    return ["image_embedding", *plans]
