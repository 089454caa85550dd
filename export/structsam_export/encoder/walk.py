"""The loop over an encoder's blocks: patch embedding, position embedding, blocks, neck.

Plans are passed along with the features. A block with a leader receives the leader's plans; no module keeps
state between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..merging import MergePlan
from .attention import MergedBlock

Plans = Sequence[MergePlan]
"""The plans of one block: one for each of its groups of windows."""
Given = Callable[[int, Tensor], Plans | None]
"""From a block's index and input [B, H, W, C] to the plans for that block; None leaves the decision to the
block or its leader."""


@dataclass(frozen=True)
class Stage:
    """State of the loop after some blocks.

    Attributes:
        x: [B, H, W, C], output of the last block that ran; before the first block, the embedded patches.
        plans: the plans of every block that ran; empty for a block that is not a MergedBlock.
    """

    x: Tensor
    plans: tuple[Plans, ...] = ()


def enter(encoder: Any, image: Tensor) -> Stage:
    """The stage before the first block.

    Args:
        encoder: SAM's ImageEncoderViT, patched or not.
        image: [B, 3, S, S] normalised pixels.
    """
    x = encoder.patch_embed(image.to(encoder.patch_embed.proj.weight.dtype))
    return Stage(x if encoder.pos_embed is None else x + encoder.pos_embed)


def walk(
    blocks: Sequence[nn.Module], stage: Stage, prior: Tensor | None = None, given: Given | None = None
) -> Iterator[Stage]:
    """The stage after each of the remaining blocks, in order.

    Args:
        blocks: all blocks of an encoder, SAM's own or patched.
        stage: the stage to continue from.
        prior: [B, H, W] fp32 in [0, 1], 0 where there is no prompt; None without a prior.
        given: plans that replace the blocks' own.

    Yields:
        The stage after each block.
    """
    for index in range(len(stage.plans), len(blocks)):
        block = blocks[index]
        if isinstance(block, MergedBlock):
            plans = given(index, stage.x) if given else None
            if plans is None and block.leader is not None:
                plans = stage.plans[block.leader]
            x, made = block.forward_with_plans(stage.x, prior, plans)
            stage = Stage(x, (*stage.plans, made))
        else:
            stage = Stage(block(stage.x), (*stage.plans, ()))
        yield stage


def leave(encoder: Any, stage: Stage) -> Tensor:
    """The neck: the output of the last block [B, H, W, C] to the embedding [B, E, H, W]."""
    embedding: Tensor = encoder.neck(stage.x.permute(0, 3, 1, 2))
    return embedding


def embed(
    encoder: Any, image: Tensor, prior: Tensor | None = None, given: Given | None = None
) -> tuple[Tensor, tuple[Plans, ...]]:
    """Run the whole encoder; see `enter` and `walk` for the arguments.

    Returns:
        The embedding [B, E, H, W], and the plans of every block.
    """
    stage = enter(encoder, image)
    for after in walk(encoder.blocks, stage, prior, given):
        stage = after
    return leave(encoder, stage), stage.plans


class WalkedEncoder(nn.Module):
    """SAM's image encoder, patched or not, as a module with the embedding as its only output, fp32.

    Args:
        encoder: an ImageEncoderViT.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, prior: Tensor | None = None) -> Tensor:
        """Normalised pixels [B, 3, S, S], optionally a prior [B, H, W], to the embedding [B, E, H, W]."""
        return embed(self.encoder, image, prior)[0].float()
