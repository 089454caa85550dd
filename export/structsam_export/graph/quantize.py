"""Linear layers in 8 bits: the form that TensorRT, ONNX Runtime and OpenVINO all run in integers.

    x -> [Sub shift] -> QuantizeLinear -> DequantizeLinear -> MatMul -> Sub -bias
                           8-bit weight -> DequantizeLinear ---^

Sub, because ONNX Runtime joins MatMul and Add to a Gemm, and has no integer Gemm with a floating-point bias.

Symmetric, zero point 0: activations with one scale for a tensor, weights with one for an output channel. The
module computes in PyTorch what the graph says, so that both can be compared. Merge plans, the products of
attention, the softmax, patch embedding and neck stay in floating point.

Two things make 8 bits enough, and both change no function before rounding. What comes out of GELU lies
between -0.17 and a long positive tail: a constant moves it to the middle of its range, and its product with
the weight is in the bias. And factors for each channel move from the input of a layer into its weight
(SmoothQuant, Xiao et al., 2023): norm2 divides by those of `fc1`, and the values of attention, which a
softmax averages, by those of `proj`. The norm before `qkv` also decides what merges, and keeps its scale.

Codes are int8, or floats of 8 bits (e4m3: 4 bits of exponent, 3 of mantissa), which TensorRT multiplies from
compute capability 8.9 on, and ONNX Runtime and OpenVINO compute in wider floats. Their step grows with the
value, so that a shift gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnxscript import opset20 as op
from torch import Tensor, nn

from ..choices import Linear, Precision
from ..encoder.attention import MergedBlock
from ..encoder.patch import merged_blocks, shared_copy

PLACES = {
    Linear.QKV: "attn.qkv",
    Linear.PROJ: "attn.proj",
    Linear.FC1: "mlp.lin1",
    Linear.FC2: "mlp.lin2",
}
"""Where the linear layers are in a block."""
FLOAT8 = torch.float8_e4m3fn
LARGEST = {torch.int8: 127, FLOAT8: 448}
"""Largest code of each type; -128 would have no counterpart."""
TYPES = {one: FLOAT8 if one.parts[0] is Precision.FP8 else torch.int8 for one in Precision if one.quantized}
"""The type of the codes in each precision of 8 bits."""


@torch.library.custom_op("structsam::quantize", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """ONNX's QuantizeLinear to int8 with zero point 0: `x` of any shape, a scalar `scale`."""
    return (x / scale).round().clamp(-128, 127).to(torch.int8)


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@torch.library.custom_op("structsam::quantize_float8", mutates_args=())
def quantize_float8(x: Tensor, scale: Tensor) -> Tensor:
    """ONNX's QuantizeLinear to e4m3, which saturates: `x` of any shape, a scalar `scale`."""
    largest = LARGEST[FLOAT8]
    return (x / scale).clamp(-largest, largest).to(FLOAT8)


@quantize_float8.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=FLOAT8)


@torch.library.custom_op("structsam::dequantize", mutates_args=())
def dequantize_linear(codes: Tensor, scale: Tensor) -> Tensor:
    """ONNX's DequantizeLinear: codes [..., O], one scale or [O] of them; has the type of `scale`."""
    return codes.to(scale.dtype) * scale


@dequantize_linear.register_fake
def _(codes: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


def _quantize(x: Any, scale: Any) -> Any:
    # Its type is that of the codes.
    zero: Any = op.Constant(value=onnx.numpy_helper.from_array(np.array(0, np.int8)))
    return op.QuantizeLinear(x, scale, zero)


def _quantize_float8(x: Any, scale: Any) -> Any:
    zero: Any = op.Constant(value=onnx.helper.make_tensor("", onnx.TensorProto.FLOAT8E4M3FN, (), [0.0]))
    return op.QuantizeLinear(x, scale, zero)


def _dequantize(codes: Any, scale: Any) -> Any:
    return op.DequantizeLinear(codes, scale, axis=len(codes.shape) - 1)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.structsam.quantize.default: _quantize,
    torch.ops.structsam.quantize_float8.default: _quantize_float8,
    torch.ops.structsam.dequantize.default: _dequantize,
}
"""How the tracer writes them."""


def grid(
    low: float, high: float, dtype: torch.dtype = torch.float32, codes: torch.dtype = torch.int8
) -> tuple[Tensor, Tensor]:
    """Scale and shift, fp32 scalars, of codes that span a range.

    The shift is a multiple of the scale, so that 0, the commonest value behind GELU, is met exactly.

    Args:
        low, high: the range; symmetric ones have a shift of 0.
        dtype: type of the scale in the graph, to which it is rounded.
        codes: a key of LARGEST; floats of 8 bits take symmetric ranges alone.
    """
    scale = _rounded(torch.tensor((high - low) / 2 / LARGEST[codes]), dtype)
    return scale, ((low + high) / 2 / scale).round() * scale


def _rounded(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A scale that `dtype` holds, in fp32: never zero, and no number that a GPU may flush to zero."""
    return scale.clamp_min(torch.finfo(dtype).tiny).to(dtype).float()


class Rows(nn.Module):
    """A linear layer [N, I] to [N, O] in floating point.

    Args:
        weight: [O, I].
        bias: [O]; None for zeros.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, I] to [N, O]."""
        return F.linear(x, self.weight, self.bias)


class QuantizedLinear(nn.Module):
    """A linear layer [N, I] to [N, O] with a weight in 8 bits, on an input in 8 bits.

    Args:
        layer: the layer in floating point.
        low, high: range of the input that the codes span; see `grid`.
        dtype: type of the scales in the graph.
        codes: a key of LARGEST.
    """

    def __init__(
        self,
        layer: Rows,
        low: float,
        high: float,
        dtype: torch.dtype = torch.float32,
        codes: torch.dtype = torch.int8,
    ) -> None:
        super().__init__()
        self.weight: Tensor  # [I, O], the order of MatMul
        self.weight_scale: Tensor  # [O]
        self.scale: Tensor
        self.shift: Tensor
        self.offset: Tensor  # [O], minus the bias
        scale, shift = grid(low, high, dtype, codes)
        weight_scale = _rounded(layer.weight.abs().amax(1) / LARGEST[codes], dtype)
        weight = (layer.weight / weight_scale[:, None]).clamp(-LARGEST[codes], LARGEST[codes])
        weight = weight.round() if codes is torch.int8 else weight
        # Of the weight as it is in 8 bits: the constant then cancels exactly, whatever rounding did.
        offset = -(layer.bias + shift * weight_scale * weight.sum(1))
        self.shifts = bool(shift)
        values = {"weight": weight.T.contiguous().to(codes), "weight_scale": weight_scale}
        for name, value in {**values, "scale": scale, "shift": shift, "offset": offset}.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """[N, I] to [N, O]."""
        x = x - self.shift if self.shifts else x
        quantized = (quantize_float8 if self.weight.dtype is FLOAT8 else quantize_linear)(x, self.scale)
        x = dequantize_linear(quantized, self.scale)
        made: Tensor = x @ dequantize_linear(self.weight, self.weight_scale) - self.offset
        return made


@dataclass(frozen=True)
class Quantization:
    """How a linear layer goes into 8 bits.

    Attributes:
        low, high: range of the input that the codes span, after `factors`.
        factors: [I], by which the input is divided and the weight multiplied; None for ones. For `fc1` and
            `proj` only.
        codes: a key of LARGEST, their type.
    """

    low: float
    high: float
    factors: Tensor | None = None
    codes: torch.dtype = torch.int8


def quantize(
    encoder: nn.Module, layers: Mapping[str, Quantization], dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A copy of an encoder with linear layers in 8 bits; what is not changed is shared with the original.

    Args:
        encoder: patched, in fp32.
        layers: by name, as `blocks.0.fc2`; all others stay in floating point.
        dtype: type of what is around them in the graph. The copy is fp32, with scales that this type holds.
    """
    made = shared_copy(encoder)
    for index, block in enumerate(merged_blocks(made)):
        mine = {kind: layers[kind.of(index)] for kind in Linear if kind.of(index) in layers}
        migrate(block, {kind: one.factors for kind, one in mine.items() if one.factors is not None})
        for kind, one in mine.items():
            put(block, kind, made_of(one, linear(block, kind), dtype))
    return made


def made_of(how: Quantization, layer: Rows, dtype: torch.dtype = torch.float32) -> QuantizedLinear:
    """A layer in 8 bits, from one in floating point that has its factors already."""
    return QuantizedLinear(layer, how.low, how.high, dtype, how.codes)


def linear(block: MergedBlock, kind: Linear) -> Rows:
    """A linear layer of a block in floating point, as it is computed: keys have the scale of the logits."""
    layer: Any = block.get_submodule(PLACES[kind])
    if kind is not Linear.QKV or isinstance(layer, Rows):
        return Rows(layer.weight, layer.bias)
    scaled = block.attn.scaled
    return Rows(scaled(layer.weight), None if layer.bias is None else scaled(layer.bias))


def put(block: MergedBlock, kind: Linear, layer: nn.Module) -> None:
    """Replace a linear layer of a block, in place."""
    owner, _, name = PLACES[kind].partition(".")
    setattr(block.get_submodule(owner), name, layer)


def migrate(block: MergedBlock, factors: Mapping[Linear, Tensor]) -> None:
    """Divide inputs of linear layers by factors, and multiply their weights by them, in place.

    The block computes the same function. Its tensors are replaced, not changed.

    Args:
        block: changed.
        factors: [I] above 0, for `proj` and `fc1`.
    """
    if (factor := factors.get(Linear.PROJ)) is not None:
        qkv, proj = linear(block, Linear.QKV), linear(block, Linear.PROJ)
        share = torch.cat([torch.ones_like(factor), torch.ones_like(factor), factor])  # of the values
        put(block, Linear.QKV, Rows(qkv.weight / share[:, None], qkv.bias / share))
        put(block, Linear.PROJ, Rows(proj.weight * factor, proj.bias))
    if (factor := factors.get(Linear.FC1)) is not None:
        norm, fc1 = block.norm2, linear(block, Linear.FC1)
        block.norm2 = nn.LayerNorm(norm.normalized_shape, norm.eps, device=factor.device)
        block.norm2.weight = nn.Parameter(norm.weight / factor, requires_grad=False)
        block.norm2.bias = nn.Parameter(norm.bias / factor, requires_grad=False)
        put(block, Linear.FC1, Rows(fc1.weight * factor, fc1.bias))
