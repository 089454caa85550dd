"""The small SAM that is trained: its sizes, and what of other weights it can begin with."""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..models.architectures import Architecture
from ..models.checkpoints import build_sam, load_weights
from .attention import fuse

NANO = Architecture(
    embed_dim=192,
    depth=6,
    heads=3,
    global_blocks=(2, 5),
    file="vit_nano.safetensors",
    sha256=None,
    width=128,
    decoder_mlp=512,
    decoder_heads=4,
    image_size=512,
    patch=8,
)
"""SAM's own geometry at half its pixels: 64 x 64 tokens, windows of 14, masks at every second pixel.

`vit_nano` has these sizes as soon as weights of them ship.
"""


def build(arch: Architecture, size: int, device: str, weights: dict[str, Tensor] | None) -> Any:
    """A Sam with fused attention, in eval mode.

    Args:
        arch: its sizes.
        size: pixels along the side of the input.
        device: PyTorch's name of where it goes.
        weights: of the same sizes at any image size, see `inherit`; None for fresh ones.

    Raises:
        UserError: weights of other sizes.
    """
    sam = build_sam(arch, size)
    if weights is not None:
        load_weights(sam, weights, "vit_nano", "the checkpoint")
    return fuse(sam).to(device)


def inherit(weights: dict[str, Tensor], arch: Architecture) -> dict[str, Tensor]:
    """A Sam's weights as the beginning of one with another patch size or depth, and the same widths.

    A block begins as the nearest of the same kind, windowed or global, by its place in the depth. Patches sum
    what they saw in more pixels of the same picture. Weights of the same sizes are left as they are.

    Args:
        weights: a state dict.
        arch: what they are for.

    Returns:
        A state dict; position embeddings keep their length, which `load_weights` changes.
    """
    block = re.compile(r"image_encoder\.blocks\.(\d+)\.(.+)")
    found = [match for name in weights if (match := block.fullmatch(name))]
    depth = 1 + max((int(match[1]) for match in found), default=-1)
    windowed = {
        int(match[1]): len(weights[match[0]]) == 2 * arch.window - 1
        for match in found
        if match[2] == "attn.rel_pos_h"
    }
    begun = {name: value for name, value in weights.items() if not block.fullmatch(name)}
    for own in range(arch.depth):
        alike = [old for old in range(depth) if windowed.get(old) == (own not in arch.global_blocks)]
        place = (own + 0.5) / arch.depth
        nearest = min(alike, key=lambda old: abs((old + 0.5) / depth - place), default=None)
        for match in found:
            if int(match[1]) == nearest:
                begun[f"image_encoder.blocks.{own}.{match[2]}"] = weights[match[0]]
    kernel = begun.get("image_encoder.patch_embed.proj.weight")
    if kernel is not None and kernel.shape[-1] != arch.patch:
        ratio = kernel.shape[-1] / arch.patch
        summed = F.adaptive_avg_pool2d(kernel.float(), arch.patch) * ratio**2
        begun["image_encoder.patch_embed.proj.weight"] = summed
    return begun
