"""The CUDA kernels of `structsam_plugins/csrc`, called on PyTorch tensors instead of from an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structsam_plugins import FLOAT, HALF, Kernels, Layer

from .methods.structsam import StructSAM
from .windows import Windows

TYPES = {torch.float32: FLOAT, torch.float16: HALF}


def layer_of(method: StructSAM, windows: Windows, shape: Sequence[int]) -> Layer:
    """The layer for the kernels: features of `shape` [B, H, W, C] that `method` merges in `windows`."""
    return Layer(*shape, windows.side, method.cell, method.merged(windows), method.heads)


@dataclass(frozen=True)
class TensorKernels:
    """`StructSAM` with default options, computed by the kernels on the tensors' device and current stream.

    Args:
        kernels: the loaded library, built for that device.
    """

    kernels: Kernels

    def score(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, C] features to score [B', G] fp32 and member [B', G] int32."""
        x = x.contiguous()
        score = x.new_empty(layer.windows, layer.cells, dtype=torch.float32)
        member = torch.empty_like(score, dtype=torch.int32)
        outputs = score.data_ptr(), member.data_ptr()
        self.kernels.score(layer, TYPES[x.dtype], x.data_ptr(), *outputs, stream=_stream(x))
        return score, member

    def select(self, layer: Layer, score: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score [B', G] and member [B', G] to slot [B', N], token [B', N] and position [B', K], int32."""
        score, member = score.contiguous(), member.contiguous()
        slot, token = (member.new_empty(layer.windows, layer.tokens) for _ in range(2))
        position = member.new_empty(layer.windows, layer.slots)
        inputs = score.data_ptr(), member.data_ptr()
        outputs = slot.data_ptr(), token.data_ptr(), position.data_ptr()
        self.kernels.select(layer, *inputs, *outputs, stream=_stream(score))
        return slot, token, position

    def merge(self, layer: Layer, x: Tensor, token: Tensor) -> Tensor:
        """[B, H, W, C] features and token [B', N] of `select` to [B', K, C] slots."""
        x = x.contiguous()
        slots = x.new_empty(layer.windows, layer.slots, layer.channels)
        addresses = x.data_ptr(), token.data_ptr(), slots.data_ptr()
        self.kernels.merge(layer, TYPES[x.dtype], *addresses, stream=_stream(x))
        return slots

    def unmerge(self, layer: Layer, slots: Tensor, slot: Tensor, residual: Tensor) -> Tensor:
        """Slots [B', K, C] and slot [B', N] of `select` to [B, H, W, C], added to `residual`, same shape."""
        slots, residual = slots.contiguous(), residual.contiguous()
        total = torch.empty_like(residual)
        addresses = slots.data_ptr(), slot.data_ptr(), residual.data_ptr(), total.data_ptr()
        self.kernels.unmerge(layer, TYPES[slots.dtype], *addresses, stream=_stream(slots))
        return total


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
