"""Put merging into SAM's image encoder, and take it out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..choices import Attention
from ..merging import Identity, Method, Windows
from .attention import MergedBlock


def grid_of(encoder: Any) -> int:
    """Rows (and columns) of the encoder's feature map, in tokens."""
    return int(encoder.img_size // encoder.patch_embed.proj.kernel_size[0])


def windows_of(encoder: Any) -> list[Windows]:
    """How each block cuts the feature map; a global block has one window, the map itself."""
    grid = grid_of(encoder)
    sides = [original(block).window_size or grid for block in encoder.blocks]
    return [Windows(grid, grid, side) for side in sides]


def original(block: Any) -> Any:
    """SAM's own block, whether patched or not."""
    return block.original if isinstance(block, MergedBlock) else block


def apply(
    encoder: nn.Module,
    methods: Sequence[Method],
    merge_mlp: bool = False,
    plan_every: int = 1,
    form: Attention = Attention.WIDENED,
) -> None:
    """Let every block merge by its method, in place; parameters stay shared. Applying again replaces.

    Args:
        encoder: SAM's ImageEncoderViT.
        methods: one per block.
        merge_mlp: MLPs of blocks that merge see slots too.
        plan_every: of so many blocks of a kind (window or global) that merge, the first decides for all.
        form: of attention; all give the same numbers.

    Raises:
        ValueError: another number of methods than blocks.
    """
    remove(encoder)
    blocks: Any = encoder.blocks
    leaders: dict[Windows, tuple[int, int]] = {}  # by kind: its number, and how many blocks it decides for
    for index, (windows, method) in enumerate(zip(windows_of(encoder), methods, strict=True)):
        if isinstance(method, Identity):
            blocks[index] = MergedBlock(blocks[index], windows, method, form=form)
            continue
        leader, decided = leaders.get(windows, (index, plan_every))
        if decided == plan_every:
            leader, decided = index, 0
        followed = None if leader == index else leader
        blocks[index] = MergedBlock(blocks[index], windows, method, merge_mlp, followed, form)
        leaders[windows] = leader, decided + 1


def remove(encoder: nn.Module) -> None:
    """Put SAM's own blocks back: the very objects that `apply` took out."""
    blocks: Any = encoder.blocks
    for index, block in enumerate(blocks):
        blocks[index] = original(block)


def merged_blocks(encoder: Any) -> list[MergedBlock]:
    """The blocks of a patched encoder."""
    return [block for block in encoder.blocks if isinstance(block, MergedBlock)]
