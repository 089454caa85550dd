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
    merge_mlp: Sequence[bool] | None = None,
    leaders: Sequence[int | None] | None = None,
    form: Attention = Attention.WIDENED,
) -> None:
    """Let every block merge by its method, in place; parameters stay shared. Applying again replaces.

    Args:
        encoder: SAM's ImageEncoderViT.
        methods: one per block.
        merge_mlp: one per block: whether its MLP sees slots too; none does if not given.
        leaders: one per block: the earlier block whose plans it takes, or None where it decides itself.
        form: of attention; all give the same numbers.

    Raises:
        ValueError: another number of methods than blocks.
    """
    remove(encoder)
    blocks: Any = encoder.blocks
    number = len(blocks)
    each = zip(
        windows_of(encoder), methods, merge_mlp or [False] * number, leaders or [None] * number, strict=True
    )
    for index, (windows, method, mlp, leader) in enumerate(each):
        mlp = mlp and not isinstance(method, Identity)  # where nothing merges, nothing is to be unmerged
        blocks[index] = MergedBlock(blocks[index], windows, method, mlp, leader, form)


def remove(encoder: nn.Module) -> None:
    """Put SAM's own blocks back: the very objects that `apply` took out."""
    blocks: Any = encoder.blocks
    for index, block in enumerate(blocks):
        blocks[index] = original(block)


def merged_blocks(encoder: Any) -> list[MergedBlock]:
    """The blocks of a patched encoder."""
    return [block for block in encoder.blocks if isinstance(block, MergedBlock)]
