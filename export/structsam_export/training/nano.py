"""The small SAM that is trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.architectures import ARCHITECTURES, Architecture
from ..models.checkpoints import build_sam, load_weights
from .attention import fuse

NANO = ARCHITECTURES["vit_nano"]
"""SAM's own geometry at half its pixels: 64 x 64 tokens, windows of 14, masks at every second pixel."""


def build(arch: Architecture, size: int, device: str, weights: dict[str, Tensor] | None) -> Any:
    """A Sam with fused attention, in eval mode.

    Args:
        arch: its sizes.
        size: pixels along the side of the input.
        device: PyTorch's name of where it goes.
        weights: of the same sizes at any image size; None for fresh ones.

    Raises:
        UserError: weights of other sizes.
    """
    sam = build_sam(arch, size)
    if weights is not None:
        load_weights(sam, weights, "vit_nano", "the checkpoint")
    return fuse(sam).to(device)
