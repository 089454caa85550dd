"""Replace the blocks of SAM's image encoder by merging ones, and restore them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from ..choices import Attention
from ..merging import Identity, Method, Windows
from .attention import MergedBlock

Module = TypeVar("Module", bound=nn.Module)


def grid_of(encoder: Any) -> int:
    """Rows (and columns) of the encoder's feature map, in tokens."""
    return int(encoder.img_size // encoder.patch_embed.proj.kernel_size[0])


def windows_of(encoder: Any) -> list[Windows]:
    """The attention windows of each block; a global block has one window, the whole map."""
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
    """Replace every block by a `MergedBlock` with its method, in place; parameters stay shared.

    Applying again replaces the earlier methods.

    Args:
        encoder: SAM's ImageEncoderViT.
        methods: one per block.
        merge_mlp: one per block, whether its MLP runs on slots too; by default no block's does.
        leaders: one per block, the index of the earlier block whose plans it reuses, or None if it decides
            itself; by default all decide.
        form: form of attention; all are equal up to rounding.

    Raises:
        ValueError: the number of methods is not the number of blocks.
    """
    remove(encoder)
    blocks: Any = encoder.blocks
    number = len(blocks)
    each = zip(
        windows_of(encoder), methods, merge_mlp or [False] * number, leaders or [None] * number, strict=True
    )
    for index, (windows, method, mlp, leader) in enumerate(each):
        mlp = mlp and not isinstance(method, Identity)  # without merging the MLP runs on tokens
        blocks[index] = MergedBlock(blocks[index], windows, method, mlp, leader, form)


def remove(encoder: nn.Module) -> None:
    """Restore SAM's own blocks, the same objects that `apply` replaced."""
    blocks: Any = encoder.blocks
    for index, block in enumerate(blocks):
        blocks[index] = original(block)


def merged_blocks(encoder: Any) -> list[MergedBlock]:
    """The patched blocks of an encoder, in order; none if it is not patched."""
    return [block for block in encoder.blocks if isinstance(block, MergedBlock)]


def shared_copy(module: Module) -> Module:
    """A copy whose modules are its own, and whose tensors are those of the original."""
    owners: list[nn.Module] = [module]
    owners += [block.original for block in module.modules() if isinstance(block, MergedBlock)]
    tensors = (one for owner in owners for one in (*owner.parameters(), *owner.buffers()))
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
