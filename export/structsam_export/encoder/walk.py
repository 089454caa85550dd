"""The one loop over an encoder's blocks: patches, position embeddings, blocks, neck.

Plans travel along with the features. A block that follows another one is handed its leader's plans, and
nothing is kept on a module between two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..merging import MergePlan
from .attention import MergedBlock

Plans = Sequence[MergePlan]
"""Of one block: a plan for each of its groups of windows."""
Given = Callable[[int, Tensor], Plans | None]
"""From a block's number and what enters it, [B, H, W, C], to the plans it is to merge by; None leaves the
decision to the block or its leader."""


@dataclass(frozen=True)
class Stage:
    """How far a walk has come.

    Attributes:
        x: [B, H, W, C] what the last block left; before the first block, the embedded patches.
        plans: of every block so far; empty for a block that is not a MergedBlock.
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
    """The stages behind each of the remaining blocks, in order.

    Args:
        blocks: all of an encoder's, SAM's own or patched.
        stage: where to start.
        prior: [B, H, W] fp32, from 0 to 1 where a prompt is; None where there is none.
        given: plans that replace what blocks decide.
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
    """The neck: what the last block left, [B, H, W, C], to the embedding [B, E, H, W]."""
    embedding: Tensor = encoder.neck(stage.x.permute(0, 3, 1, 2))
    return embedding


def embed(
    encoder: Any, image: Tensor, prior: Tensor | None = None, given: Given | None = None
) -> tuple[Tensor, tuple[Plans, ...]]:
    """The whole walk: the embedding [B, E, H, W], and the plans of every block; see `enter` and `walk`."""
    stage = enter(encoder, image)
    for after in walk(encoder.blocks, stage, prior, given):
        stage = after
    return leave(encoder, stage), stage.plans


class WalkedEncoder(nn.Module):
    """SAM's image encoder, patched or not, as a module: the embedding alone, fp32 out at any precision.

    Args:
        encoder: an ImageEncoderViT.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, prior: Tensor | None = None) -> Tensor:
        """[B, 3, S, S] normalised pixels, and perhaps a prior [B, H, W], to the embedding [B, E, H, W]."""
        return embed(self.encoder, image, prior)[0].float()
