"""fp16 or bf16 with fp32 islands, set in the module that is traced.

TensorRT 11 and TensorRT-RTX are strongly typed: the types in the ONNX graph are the precision. Weights and
features become half as wide; computations that overflow or round badly stay fp32: the statistics of every
normalisation, the energy and the rest of the merge plan, and the position encoding of prompts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import Precision

DTYPES: dict[str, torch.dtype] = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""The type of weights and features in each precision, outside of 8 bits."""


class LayerNormFp32(nn.Module):
    """Layer normalisation over the last dimension with fp32 statistics; the result has the input's type."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C], of the type of `x`."""
        norm = self.norm
        return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


class LayerNorm2dFp32(nn.Module):
    """SAM's LayerNorm2d as one LayerNormalization over channels moved last, with fp32 statistics.

    The same mean, variance and eps as SAM's own implementation, which exports as five elementary operators.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W], of the type of `x`."""
        weight, bias = self.norm.weight, self.norm.bias
        last = x.permute(0, 2, 3, 1).float()
        normed = F.layer_norm(last, weight.shape, weight, bias, self.norm.eps)
        return normed.to(x.dtype).permute(0, 3, 1, 2)


def set_precision(module: nn.Module, precision: Precision) -> nn.Module:
    """Prepare a module for tracing, in place: replace its normalisations, and set the precision.

    Args:
        module: with fp32 parameters.
        precision: a key of DTYPES: the type of all parameters, except those of normalisations and of the
            position encoding.

    Returns:
        The same module.
    """
    for child in module.modules():
        if not _stays_fp32(child):
            _convert(child, DTYPES[precision])
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.LayerNorm):
            _replace(module, name, LayerNormFp32(child))
        elif _is_sam(child, "LayerNorm2d"):
            _replace(module, name, LayerNorm2dFp32(child))
    return module


def _stays_fp32(module: nn.Module) -> bool:
    """Normalisations, and the frequencies of the position encoding, which multiply pixel coordinates."""
    names = ("LayerNorm2d", "PositionEmbeddingRandom")
    return isinstance(module, nn.LayerNorm) or any(_is_sam(module, name) for name in names)


def _is_sam(module: nn.Module, name: str) -> bool:
    """Whether a module is an instance of SAM's class of that name, without importing SAM."""
    return type(module).__name__ == name


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the module's own tensors to a type, not those of its children."""
    for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
        if tensor.dtype == torch.float32:  # and not weights of 8 bits
            tensor.data = tensor.data.to(dtype)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the submodule `name` by `new`, unless its owner already normalises in fp32."""
    owner = module.get_submodule(name.rpartition(".")[0])
    if not getattr(owner, "normalizes_in_fp32", False):
        setattr(owner, name.rpartition(".")[2], new)
