"""Graph rules are tested on models written as ONNX text, run before and after in ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.parser
import onnxruntime as ort
import pytest

from structsam_export.graph.passes import Pass, run_passes

Arrays = dict[str, npt.NDArray[Any]]

HEADER = '<ir_version: 10, opset_import: ["" : {opset}]>\n'
BATCH = 3  # what a dimension with a name is when a model runs


@dataclass(frozen=True)
class Outcome:
    """What a rule made of a model."""

    edits: int
    model: onnx.ModelProto

    @property
    def ops(self) -> list[str]:
        return [node.op_type for node in self.model.graph.node]

    @property
    def constants(self) -> dict[str, npt.NDArray[Any]]:
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}


def parse(text: str, opset: int = 20) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER.format(opset=opset) + text)


def example_inputs(model: onnx.ModelProto) -> Arrays:
    """Seeded numbers for every input: integers in [0, 2), so that they are sound indices."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else BATCH for d in kind.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        integers = rng.integers(0, 2, shape)
        arrays[info.name] = (rng.normal(size=shape) if dtype.kind == "f" else integers).astype(dtype)
    return arrays


def infer(model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Run a model node by node: without ONNX Runtime's own rewriting, which would hide what a rule did."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    # A weight that becomes a constant would be packed, and its products summed in another order.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Same inputs and outputs by name and type, and the same bits come out of both."""
    for side in ("input", "output"):
        assert _signature(getattr(before.graph, side)) == _signature(getattr(after.graph, side))
    onnx.checker.check_model(after, full_check=True)
    inputs = example_inputs(before)
    expected, actual = infer(before, inputs), infer(after, inputs)
    for name, array in expected.items():
        assert array.dtype == actual[name].dtype
        np.testing.assert_array_equal(array, actual[name], err_msg=name)


def _signature(infos: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, int]]:
    return [(info.name, info.type.tensor_type.elem_type) for info in infos]


@pytest.fixture
def model_of() -> Callable[..., onnx.ModelProto]:
    """ONNX text to a model."""
    return parse


@pytest.fixture
def same() -> Callable[[onnx.ModelProto, onnx.ModelProto], None]:
    return assert_same


@pytest.fixture
def apply() -> Callable[..., Outcome]:
    """Apply one rule to a model in ONNX text, and hold the result against the original with no tolerance."""

    def run(rule: Pass, text: str, opset: int = 20) -> Outcome:
        before = parse(text, opset)
        after, edits = run_passes(before, [rule])
        assert_same(before, after)
        return Outcome(edits[rule.__name__], after)

    return run
