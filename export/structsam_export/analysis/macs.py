"""Multiply-accumulates of SAM's image encoder, in the convention of the paper's tables.

That convention is fvcore's: matrix products and convolutions count one per multiply-accumulate, padded
windows in full, layer normalisation five per element, and softmax, GELU, gathers and additions nothing.
PyTorch's own counter does the work on the meta device, so nothing is computed.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..encoder.attention import MergedBlock
from ..encoder.exported import planned_blocks
from ..encoder.patch import merged_blocks, remove
from ..merging import StructSAM

SOBEL_MACS = 18
"""Of one channel of one token: two 3x3 kernels. We compute it by shifted additions, which count nothing."""


@dataclass(frozen=True)
class EncoderMacs:
    """Multiply-accumulates for one image.

    Attributes:
        unmerged: Meta's own encoder.
        merged: with merging; unmerge after the projection; the relative position as the paper prices it.
        energy: of the gradient energy, as the two depthwise convolutions that it stands for.
        widening: what our attention adds to `merged`, because its queries and keys carry the relative
            position as extra channels instead of an added bias.
    """

    unmerged: int
    merged: int
    energy: int
    widening: int


def encoder_macs(encoder: Any) -> EncoderMacs:
    """Count a patched encoder, and the encoder that it was.

    Args:
        encoder: a patched ImageEncoderViT, on any device; it is not changed.
    """
    encoder = _on_meta(encoder)
    image = torch.empty(1, 3, encoder.img_size, encoder.img_size, device="meta")
    widening = sum(_widening(block) for block in merged_blocks(encoder))
    energy = sum(_energy(block) for _, block in planned_blocks(encoder))
    executed = count_macs(encoder, image)
    remove(encoder)
    return EncoderMacs(count_macs(encoder, image), executed - widening, energy, widening)


def count_macs(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with torch.no_grad(), counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2  # PyTorch counts a multiply-accumulate as two


def _layer_norm(shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    """fvcore's price, doubled because the sum is halved."""
    return 2 * 5 * math.prod(shape)


def _widening(block: MergedBlock) -> int:
    """Two one-hot parts of `side` channels in every product of a query and a key."""
    if not block.attn.relative:
        return 0
    slots = block.method.slots(block.windows)
    return block.windows.per_image * block.attn.heads * slots**2 * 2 * block.windows.side


def _energy(block: MergedBlock) -> int:
    """The gradient, over the map once, on all channels or on their mean over heads."""
    if not isinstance(block.method, StructSAM):
        return 0
    channels: int = block.norm1.normalized_shape[0] // block.method.heads
    return SOBEL_MACS * block.windows.height * block.windows.width * channels


def _on_meta(encoder: nn.Module) -> Any:
    """A copy without data: parameters are put on the meta device as they are copied, never duplicated."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    for block in merged_blocks(encoder):
        tensors += [*block.original.parameters()]
    memo = {id(t): nn.Parameter(t.to("meta"), requires_grad=False) for t in tensors}
    return copy.deepcopy(encoder, memo)
