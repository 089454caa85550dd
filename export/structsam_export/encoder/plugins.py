"""The encoder as a graph of TensorRT plugins; `plugins/README.md` describes what they compute.

The operators exist in the ONNX graph only: neither PyTorch nor ONNX Runtime can run it, TensorRT builds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention import MergedBlock, layer_norm
from .patch import merged_blocks, shared_copy
from .walk import WalkedEncoder

DOMAIN = "structsam"
"""ONNX domain of the operators."""
FP32, INT32 = torch.float32, torch.int32
Shape = tuple[Any, ...]  # sizes may be symbolic


class PluginBlock(nn.Module):
    """A `MergedBlock` whose plan, merge, unmerge and residual addition are four plugin operators.

    Args:
        block: the block to replace; its modules are shared.
    """

    normalizes_in_fp32 = True  # as MergedBlock does

    def __init__(self, block: MergedBlock) -> None:
        super().__init__()
        self.windows, self.method = block.windows, block.method
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C]; see `MergedBlock`."""
        windows, tokens = x.shape[0] * self.windows.per_image, self.windows.tokens
        method: Any = self.method
        slots, cells = method.slots(self.windows), tokens // method.cell**2
        features = layer_norm(self.norm1, x)
        score, member = self._operator(
            "Score", [features], {FP32: [(windows, cells)], INT32: [(windows, cells)]}
        )
        slot, token, position = self._operator(
            "Select", [score, member], {INT32: [(windows, tokens), (windows, tokens), (windows, slots)]}
        )
        merged = [(windows, slots, x.shape[3])]
        (y,) = self._operator("Merge", [features.to(x.dtype), token], {x.dtype: merged})
        y = self.attn(y, position)
        (x,) = self._operator("Unmerge", [y, slot, x], {x.dtype: [tuple(x.shape)]})
        changed: Tensor = self.mlp(layer_norm(self.norm2, x).to(x.dtype))
        return x + changed

    @property
    def _attributes(self) -> dict[str, Any]:
        """The attributes, the same for all four operators."""
        method: Any = self.method
        merged = method.merged(self.windows)
        return {"side": self.windows.side, "cell": method.cell, "merged": merged, "heads": method.heads}

    def _operator(
        self, name: str, inputs: Sequence[Tensor], outputs: dict[torch.dtype, list[Shape]]
    ) -> Sequence[Tensor]:
        """Add a node to the graph; its outputs have these types and shapes, in order."""
        types = [(dtype, shape) for dtype, shapes in outputs.items() for shape in shapes]
        made: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::Structsam{name}",
            inputs,
            attrs=self._attributes,
            dtypes=[dtype for dtype, _ in types],
            shapes=[shape for _, shape in types],
            version=1,
        )
        return made


class PluginEncoder(WalkedEncoder):
    """The module that is exported for an engine with plugins: image [B, 3, S, S] to embedding [B, E, H, W].

    Blocks that merge nothing, or whose method has no kernels, are unchanged.

    Args:
        encoder: a patched ImageEncoderViT; this is a copy that shares its parameters.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__(shared_copy(encoder))
        blocks = self.encoder.blocks
        for index, block in enumerate(merged_blocks(self.encoder)):
            if block.method.has_kernels and block.method.slots(block.windows) < block.windows.tokens:
                blocks[index] = PluginBlock(block)
