"""The encoder as a graph of TensorRT plugins: `plugins/README.md` tells what they compute.

The operators exist in the graph only. PyTorch cannot run it, ONNX Runtime neither; it becomes an engine.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..merging import MergePlan, StructSAM
from .attention import MergedBlock, layer_norm
from .patch import merged_blocks

DOMAIN = "structsam"
"""Of the operators, in ONNX."""
FP32, INT32 = torch.float32, torch.int32
Shape = tuple[Any, ...]  # of sizes that may be symbols


def has_kernels(method: object) -> bool:
    """Whether the plugins compute what a method does: Algorithm 1 with its defaults, whatever its rate."""
    if type(method) is not StructSAM:
        return False
    return method == StructSAM(method.rate, method.cell, heads=method.heads, seed=method.seed)


class PluginBlock(MergedBlock):
    """A block whose merging is four operators, the residual's addition among them."""

    def forward_with_plans(self, x: Tensor, prior: Tensor | None = None) -> tuple[Tensor, list[MergePlan]]:
        """[B, H, W, C] to [B, H, W, C]; see `MergedBlock`. Tells no plans."""
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
        return x + self.mlp(layer_norm(self.norm2, x).to(x.dtype)), []

    @property
    def _attributes(self) -> dict[str, Any]:
        """As all four operators have them."""
        method: Any = self.method
        merged = method.merged(self.windows)
        return {"side": self.windows.side, "cell": method.cell, "merged": merged, "heads": method.heads}

    def _operator(
        self, name: str, inputs: Sequence[Tensor], outputs: dict[torch.dtype, list[Shape]]
    ) -> Sequence[Tensor]:
        """A node, whose outputs have these types and shapes, in order."""
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


class PluginEncoder(nn.Module):
    """The module that is exported for an engine with plugins: image [B, 3, S, S] to the embedding, fp32.

    Blocks that merge nothing stay as they are.

    Args:
        encoder: a patched ImageEncoderViT, of which this is a copy with the same parameters.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        shared = {id(tensor): tensor for tensor in [*encoder.parameters(), *encoder.buffers()]}
        self.encoder = copy.deepcopy(encoder, shared)
        for block in merged_blocks(self.encoder):
            if has_kernels(block.method) and block.method.slots(block.windows) < block.windows.tokens:
                block.__class__ = PluginBlock

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, S, S] normalised pixels to [B, 256, H, W]."""
        embedding: Tensor = self.encoder(image.to(self.encoder.patch_embed.proj.weight.dtype))
        return embedding.float()
