"""What each setting does to the embedding, with one block merged at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from structsam_runtime.errors import NotFiniteError

from ..choices import Attention
from ..encoder.attention import MergedBlock
from ..encoder.patch import original, windows_of
from ..encoder.walk import Stage, enter, leave
from ..recipe import BlockRecipe
from .settings import FORM, UNMERGED, everywhere, heads_of, patch

Place = tuple[int, int]
"""A block, and the index of a setting."""


def relative_error(made: Tensor, wanted: Tensor) -> float:
    """Sum of squared differences of two embeddings of any shape, relative to that of the second's squares.

    Raises:
        NotFiniteError: one of them contains NaN or infinity.
    """
    error = float((made - wanted).square().sum() / wanted.square().sum())
    if not math.isfinite(error):
        raise NotFiniteError("the encoder returned NaN or infinity; check the weights with structsam export")
    return error


@torch.no_grad()
def block_errors(
    encoder: Any,
    image: Tensor,
    settings: Sequence[BlockRecipe],
    known: Collection[Place] = (),
    passed: Callable[[int], None] = lambda blocks: None,
) -> Iterator[tuple[Place, float]]:
    """The error of the embedding with each block alone merged by each setting.

    What enters every block of the unmerged encoder is kept, so that a setting of a block costs that block and
    those behind it.

    Args:
        encoder: SAM's ImageEncoderViT; left unmerged.
        image: [1, 3, S, S] normalised pixels, on the encoder's device.
        settings: to measure every block with.
        known: what is left out.
        passed: called with a number of blocks that have run.

    Yields:
        A place and its error, see `relative_error`.
    """
    patch(encoder, everywhere(UNMERGED, encoder))
    blocks = list(encoder.blocks)
    entering = [enter(encoder, image).x]
    for block in blocks:
        entering.append(block(entering[-1]))
    passed(len(blocks))
    wanted = leave(encoder, Stage(entering.pop()))
    for index, x in enumerate(entering):
        for number, setting in enumerate(settings):
            if (index, number) in known:
                continue
            made = merged_block(encoder, index, setting)(x)
            for later in blocks[index + 1 :]:
                made = later(made)
            passed(len(blocks) - index)
            yield (index, number), relative_error(leave(encoder, Stage(made)), wanted)


def merged_block(
    encoder: Any, index: int, setting: BlockRecipe, seed: int = 0, form: Attention = FORM
) -> nn.Module:
    """One block of an encoder as a recipe with this setting there has it.

    Args:
        encoder: SAM's ImageEncoderViT, patched or not; it stays.
        index: of the block.
        setting: what it gets.
        seed: of random choices, see `Recipe.methods`.
        form: of attention.
    """
    method = everywhere(setting, encoder).methods(heads_of(encoder), seed)[index]
    block = original(encoder.blocks[index])
    made = MergedBlock(block, windows_of(encoder)[index], method, setting.merge_mlp, form=form).eval()
    return made.to(encoder.patch_embed.proj.weight.device)


def passes(blocks: int, settings: int) -> int:
    """Blocks that run for one picture in `block_errors`."""
    return blocks + settings * blocks * (blocks + 1) // 2
