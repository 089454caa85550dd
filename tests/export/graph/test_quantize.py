"""Linear layers in 8 bits: exact before rounding, symmetric, and the same in PyTorch, NumPy and ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from structsam_export.choices import Linear
from structsam_export.encoder import apply
from structsam_export.encoder.patch import merged_blocks, shared_copy
from structsam_export.encoder.walk import embed
from structsam_export.graph.passes import run_passes
from structsam_export.graph.precision import DTYPES, set_precision
from structsam_export.graph.quantize import (
    FLOAT8,
    LARGEST,
    TYPES,
    Quantization,
    QuantizedLinear,
    Rows,
    grid,
    linear,
    migrate,
    quantize,
    quantize_float8,
    quantize_linear,
)
from structsam_export.graph.trace import trace
from structsam_export.merging import Adjacent, Method, StructSAM

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]
ROUNDING = 1e-5
"""Of sums of some hundred products of order one in fp32."""


def layer_of(seed: int, inputs: int, outputs: int) -> tuple[Rows, Tensor]:
    """A layer, and rows of which some values are large."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    layer = Rows(weight, torch.randn(outputs, generator=generator))
    return layer, torch.randn(9, inputs, generator=generator) ** 3


def in_float8(x: NDArray[Any]) -> NDArray[np.float64]:
    """The nearest e4m3 of numbers, ties to even: 4 bits of mantissa from 2^-6 on, steps of 2^-9 below."""
    exponent = np.floor(np.log2(np.maximum(np.abs(x), 2.0**-6)))
    step = 2.0 ** (exponent - 3)
    return np.clip(np.rint(x.astype(np.float64) / step) * step, -448, 448)


def by_hand(layer: Rows, x: NDArray[np.float32], low: float, high: float) -> NDArray[np.float64]:
    """What integers compute, with ONNX's definitions: int32 sums, scales and bias afterwards."""
    scale, shift = (float(value) for value in grid(low, high))
    weight = layer.weight.numpy()
    weight_scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    codes = np.clip(np.rint(weight / weight_scale[:, None]), -127, 127).astype(np.int32)
    inputs = np.clip(np.rint((x - np.float32(shift)) / np.float32(scale)), -128, 127).astype(np.int32)
    bias = layer.bias.numpy() + shift * weight_scale * codes.sum(1)
    return (inputs @ codes.T).astype(np.float64) * scale * weight_scale + bias


@pytest.mark.parametrize(
    ("operator", "ends"), [(quantize_linear, (-128, 127)), (quantize_float8, (-448, 448))]
)
def test_what_is_beyond_the_range_saturates(operator: Any, ends: tuple[int, int]) -> None:
    """As in ONNX, whatever the cast of a version of PyTorch does."""
    codes = operator(torch.tensor([-1e4, 1e4]), torch.tensor(2.0))
    assert tuple(codes.float().tolist()) == ends


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 20), st.floats(-2, 0), st.floats(0.1, 9))
def test_a_layer_computes_what_integers_do(
    seed: int, inputs: int, outputs: int, low: float, high: float
) -> None:
    layer, x = layer_of(seed, inputs, outputs)
    made = QuantizedLinear(layer, low, high)
    assert made.weight.dtype == torch.int8
    assert made.weight.shape == (inputs, outputs)
    assert int(made.weight.min()) >= -127, "-128 has no counterpart"
    np.testing.assert_allclose(made(x), by_hand(layer, x.numpy(), low, high), rtol=0, atol=1e-4)


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 20), st.floats(0.01, 90))
def test_a_layer_in_floats_of_8_bits_computes_what_its_codes_say(
    seed: int, inputs: int, outputs: int, high: float
) -> None:
    """Also where the input is beyond the range: it saturates."""
    layer, x = layer_of(seed, inputs, outputs)
    made = QuantizedLinear(layer, -high, high, codes=FLOAT8)
    assert (made.weight.dtype, made.shifts) == (FLOAT8, False)
    scale, weight_scale = made.scale.numpy(), made.weight_scale.numpy()
    np.testing.assert_allclose(scale, high / 448, rtol=1e-6)
    np.testing.assert_allclose(weight_scale, layer.weight.abs().amax(1) / 448, rtol=1e-6)
    weight = in_float8(layer.weight.numpy() / weight_scale[:, None]) * weight_scale[:, None]
    expected = in_float8(x.numpy() / scale) * scale @ weight.T + layer.bias.numpy()
    np.testing.assert_allclose(made(x), expected, rtol=0, atol=1e-4)


@given(st.integers(0, 99), st.floats(0.1, 9))
def test_the_error_of_floats_of_8_bits_is_relative(seed: int, high: float) -> None:
    """Half a step of 1 in 8 of input and weight each; absolute where they are below 2^-6 of their scale."""
    layer, x = layer_of(seed, 24, 8)
    x = x.clamp(-high, high)
    rough, fine = 1 / 16, 2.0**-10
    weights = layer.weight.abs() * rough + layer.weight.abs().amax(1, keepdim=True) / 448 * fine
    inputs = x.abs() * rough + high / 448 * fine
    bound = inputs @ layer.weight.abs().T + (x.abs() + inputs) @ weights.T
    made = QuantizedLinear(layer, -high, high, codes=FLOAT8)(x)
    assert ((made - layer(x)).abs() <= bound + ROUNDING).all()


@given(st.integers(0, 99), st.floats(-2, 0), st.floats(0.1, 9))
def test_the_error_is_that_of_rounding(seed: int, low: float, high: float) -> None:
    """Within the range half a step of input times weight, and half a step of weight times input."""
    layer, x = layer_of(seed, 24, 8)
    x = x.clamp(low, high)
    scale, _ = grid(low, high)
    steps = layer.weight.abs().amax(1) / 127
    # Where the shift is rounded to a whole number of steps, one end of the range is off by half a step more.
    bound = float(scale) * (layer.weight.abs().sum(1) + 24 * steps) + steps / 2 * x.abs().sum(1, keepdim=True)
    assert ((QuantizedLinear(layer, low, high)(x) - layer(x)).abs() <= bound + ROUNDING).all()


@given(st.floats(-9, 0), st.floats(0.1, 9), st.sampled_from([torch.float32, torch.float16]))
def test_a_grid_meets_zero_and_is_symmetric_for_symmetric_ranges(
    low: float, high: float, dtype: torch.dtype
) -> None:
    scale, shift = grid(low, high, dtype)
    assert scale.to(dtype).float() == scale > 0
    assert abs(float(shift / scale) - round(float(shift / scale))) < 1e-4
    assert grid(-high, high, dtype)[1] == 0


@pytest.mark.parametrize("codes", LARGEST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_of_zeros_and_an_input_of_zeros_have_scales(dtype: torch.dtype, codes: torch.dtype) -> None:
    """Never zero, and no number that a GPU flushes to zero."""
    made = QuantizedLinear(Rows(torch.zeros(2, 3), None), 0.0, 0.0, dtype, codes)
    assert float(min(made.scale, made.weight_scale.min())) >= torch.finfo(dtype).tiny
    assert torch.equal(made(torch.zeros(4, 3)), torch.zeros(4, 2))


@pytest.mark.parametrize("method", [StructSAM(0.55), Adjacent(0.55, heads=2)])
@given(seed=st.integers(0, 99))
def test_migrated_scales_leave_a_block_as_it_is(build_encoder: Build, method: Method, seed: int) -> None:
    """Up to rounding of sums; its plan to the last token."""
    encoder = build_encoder(112, depth=1, global_attn_indexes=(), use_abs_pos=False)
    apply(encoder, [method])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 7, 7, 64, generator=generator)
    (block,) = merged_blocks(shared_copy(encoder))
    expected, plans = encoder.blocks[0].forward_with_plans(x)
    factors = {kind: torch.rand(64, generator=generator) * 10 + 0.05 for kind in (Linear.PROJ, Linear.FC1)}
    migrate(block, factors)
    made, again = block.forward_with_plans(x)
    assert torch.equal(plans[0].slot, again[0].slot)
    assert torch.allclose(made, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not torch.equal(linear(block, Linear.QKV).weight, linear(encoder.blocks[0], Linear.QKV).weight)


def test_a_quantised_copy_leaves_the_original_alone(build_encoder: Build, photographs: Photographs) -> None:
    encoder, image = build_encoder(160, depth=2, global_attn_indexes=(1,)), photographs(160)[:1]
    apply(encoder, [StructSAM(0.55)] * 2)
    before = embed(encoder, image)[0]
    how = {kind.of(block): Quantization(-6.0, 6.0) for block in range(2) for kind in Linear}
    how["blocks.0.fc1"] = Quantization(-6.0, 6.0, torch.rand(64) + 0.5)
    made = quantize(encoder, how)
    assert torch.equal(embed(encoder, image)[0], before)
    after = embed(made, image)[0]
    assert not torch.equal(after, before)
    assert torch.nn.functional.cosine_similarity(after.flatten(), before.flatten(), 0) > 0.99
    del how["blocks.1.qkv"]
    kept = merged_blocks(quantize(encoder, how))[1].attn.qkv
    assert kept is not merged_blocks(encoder)[1].attn.qkv
    assert torch.equal(kept.weight, merged_blocks(encoder)[1].attn.qkv.weight)


class Stack(nn.Module):
    """Two layers, of which the second has a shift, with what lies between them in a block."""

    def __init__(self, dtype: torch.dtype, codes: torch.dtype) -> None:
        super().__init__()
        low = -0.17 if codes is torch.int8 else -5.0
        self.first = QuantizedLinear(layer_of(0, 16, 32)[0], -4.0, 4.0, dtype, codes)
        self.second = QuantizedLinear(layer_of(1, 32, 8)[0], low, 5.0, dtype, codes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 16] to [N, 8]."""
        made: Tensor = self.second(nn.functional.gelu(self.first(x.to(self.first.scale.dtype))))
        return made.float()


@pytest.fixture(scope="module", params=TYPES)
def graph(request: pytest.FixtureRequest) -> tuple[Stack, onnx.ModelProto]:
    """Two layers in PyTorch in fp32, and their graph in the precision of the parameter."""
    kind = DTYPES[request.param.around], TYPES[request.param]
    module, ready = Stack(*kind).eval(), set_precision(Stack(*kind).eval(), request.param.around)
    return module, run_passes(trace(ready, {"x": torch.zeros(5, 16)}, ["y"], {"x": {0: "rows"}}))[0]


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def test_the_graph_holds_every_weight_once_and_in_8_bits(graph: tuple[Stack, onnx.ModelProto]) -> None:
    _, model = graph
    onnx.checker.check_model(model, full_check=True)
    known = constants(model)
    matrices = [array for array in known.values() if array.ndim == 2]
    assert sorted(array.shape for array in matrices) == [(16, 32), (32, 8)]
    assert len({array.dtype for array in matrices}) == 1
    assert all(array.dtype.itemsize == 1 for array in matrices)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert known[node.input[1]].ndim == (
            0 if node.op_type == "QuantizeLinear" else known[node.input[1]].ndim
        )
        for zero in node.input[2:]:
            assert known[zero] == 0
            assert known[zero].dtype == matrices[0].dtype
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 2


def test_onnx_runtime_computes_what_pytorch_does(graph: tuple[Stack, onnx.ModelProto]) -> None:
    module, model = graph
    x = layer_of(2, 16, 1)[1].clamp(-4, 4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": x.numpy()})
    expected = module(x).numpy()
    half = any(array.dtype == np.float16 for array in constants(model).values())
    # Half precision moves an input across the border of two codes here and there.
    np.testing.assert_allclose(made, expected, rtol=0, atol=0.05 if half else 1e-4)


def test_onnx_runtime_multiplies_integers(graph: tuple[Stack, onnx.ModelProto], tmp_path: Any) -> None:
    _, model = graph
    kinds = {str(array.dtype) for array in constants(model).values()}
    if kinds & {"float16", "float8_e4m3fn"}:
        pytest.skip(
            "its CPU provider has no integer products with scales in half precision, and none of floats"
        )
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert ops.count("MatMulIntegerToFloat") == 2
    assert "Gemm" not in ops
