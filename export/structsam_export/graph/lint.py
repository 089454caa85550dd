"""Finds nodes that TensorRT does not support, or runs slowly, before a build starts.

The rules hold for TensorRT 10.3 (JetPack 6) to 11.x and TensorRT-RTX. Each finding names the node, what it
has, what TensorRT supports, and what to do. A graph without errors may still fail to build; one with errors
does not build as an engine with fixed shapes and without plugins.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

__all__ = ["SUPPORTED", "Finding", "lint"]

Severity = Literal["error", "warning"]
T = onnx.TensorProto

# Operators that TensorRT supports from 10.3 on; SINCE has the newer ones with their version.
# fmt: off
SUPPORTED = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum",
    "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp",
    "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu",
    "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool",
    "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot",
    "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "Round", "ScatterElements",
    "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice",
    "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze",
    "Upsample", "Where", "Xor",
})
# fmt: on
SINCE = {"Attention": (10, 14)}

# The shape of the result depends on values: no fixed memory, no CUDA graph. TensorRT parses some of them.
DATA_DEPENDENT = frozenset({"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"})

TYPES = {T.FLOAT, T.FLOAT16, T.BFLOAT16, T.INT64, T.INT32, T.INT8, T.UINT8, T.BOOL, T.FLOAT8E4M3FN, T.INT4}

MAX_TOP_K = 3840  # TensorRT's limit for k
MAX_RANK = 8  # nvinfer1::Dims::MAX_DIMS
MAX_ELEMENTS = 2**31 - 1  # tensor volumes are counted in int32
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Finding:
    """A problem of a graph.

    Args:
        rule: short name of the rule, stable, for filtering.
        node: name of the node, or of its first output if it has none; for a tensor, the tensor's name.
        op: operator type; empty for a tensor.
        message: one line: what was found, what TensorRT supports, what to do.
        severity: `error` if no engine with fixed shapes and without plugins can be built, else `warning`.
    """

    rule: str
    node: str
    op: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.node} ({self.op or 'tensor'}): {self.message} [{self.rule}]"


def lint(model: onnx.ModelProto, target: str | None = None) -> list[Finding]:
    """Check a model against what TensorRT supports.

    Args:
        model: with types and shapes in `value_info`, as the tracer and `run_passes` write them; rules about
            a shape that is missing there are skipped.
        target: the oldest TensorRT version that must build it, such as "10.3"; None for the newest.

    Returns:
        Findings in the order of the graph: tensors first, then nodes.
    """
    facts = _Facts(model.graph)
    version = tuple(int(part) for part in target.split(".")) if target else None
    findings = list(_tensors(facts))
    for node in facts.nodes:
        findings += _operator(node, version)
        if node.domain in ("", "ai.onnx") and node.op_type in RULES:
            findings += RULES[node.op_type](node, facts)
    return findings


class _Facts:
    """Types, shapes and constants of a graph and its subgraphs, by the name of the tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.types: dict[str, int] = {}
        self.shapes: dict[str, list[int | None]] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self._collect(graph)

    def _collect(self, graph: onnx.GraphProto) -> None:
        for info in (*graph.input, *graph.value_info, *graph.output):
            self._declare(info)
        for tensor in graph.initializer:
            self._constant(tensor.name, tensor)
        for node in graph.node:
            self.nodes.append(node)
            for attribute in node.attribute:
                if node.op_type == "Constant":
                    self._constant_node(node.output[0], attribute)
                for subgraph in [attribute.g, *attribute.graphs]:
                    self._collect(subgraph)

    def _declare(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        if kind.elem_type:
            self.types[info.name] = kind.elem_type
        if kind.HasField("shape"):
            self.shapes[info.name] = [
                d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim
            ]

    def _constant(self, name: str, tensor: onnx.TensorProto) -> None:
        self.constants[name] = tensor
        self.types[name] = tensor.data_type
        self.shapes[name] = list(tensor.dims)

    def _constant_node(self, name: str, attribute: onnx.AttributeProto) -> None:
        if attribute.name == "value":
            self._constant(name, attribute.t)
        elif attribute.name in ("value_int", "value_ints"):
            values = onnx.helper.get_attribute_value(attribute)
            self._constant(name, onnx.numpy_helper.from_array(np.array(values, dtype=np.int64)))

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """The values of a constant; None if it is no constant or is stored in another file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == T.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)

    def rank(self, name: str) -> int | None:
        return len(self.shapes[name]) if name in self.shapes else None


def _tensors(facts: _Facts) -> Iterator[Finding]:
    for name in {**facts.types, **facts.shapes}:
        kind, shape = facts.types.get(name), facts.shapes.get(name, [])
        if kind is not None and kind not in TYPES:
            label = onnx.helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower()
            taken = "float, float16, bfloat16, int32, int64, int8, uint8 and bool"
            yield Finding(
                "type", name, "", f"has type {label}; TensorRT takes {taken}: cast it before tracing"
            )
        if len(shape) > MAX_RANK:
            message = f"has {len(shape)} dimensions; TensorRT takes at most {MAX_RANK}: reshape to fewer"
            yield Finding("rank", name, "", message)
        elements = math.prod(d for d in shape if d is not None)
        if elements > MAX_ELEMENTS:
            message = (
                f"has {elements} elements; TensorRT takes at most {MAX_ELEMENTS}: split it or lower the batch"
            )
            yield Finding("elements", name, "", message)


def _operator(node: onnx.NodeProto, version: tuple[int, ...] | None) -> Iterator[Finding]:
    """Findings about operators that TensorRT does not support, or not in the target version."""
    if node.domain not in ("", "ai.onnx"):
        message = (
            f"is in domain {node.domain!r}; TensorRT without plugins takes ONNX's own operators: "
            "rewrite with those"
        )
        yield _finding("domain", node, message)
    elif node.op_type in DATA_DEPENDENT:
        message = (
            "has a shape or a branch that depends on values; an engine with fixed shapes supports none: "
            "fix the count at export"
        )
        yield _finding("data-dependent", node, message)
    elif node.op_type in SINCE:
        first = SINCE[node.op_type]
        if version is not None and version < first:
            wanted, has = ".".join(map(str, first)), ".".join(map(str, version))
            message = f"needs TensorRT {wanted}, the target is {has}: export attention as MatMul and Softmax"
            yield _finding("version", node, message)
    elif node.op_type not in SUPPORTED:
        yield _finding("operator", node, "is not supported by TensorRT: rewrite with supported operators")


def _top_k(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    k = facts.values(node.input[1])
    if k is None:
        message = f"computes its k {node.input[1]!r}; TensorRT takes a constant: fix the count at export"
        yield _finding("top-k", node, message)
    elif int(k.item()) > MAX_TOP_K:
        message = (
            f"has k = {int(k.item())}; TensorRT takes at most {MAX_TOP_K}: select the elements that are left "
            "out, or select in two stages"
        )
        yield _finding("top-k", node, message)
    if not _number(node, "sorted", 1):
        yield _finding("top-k", node, "has sorted = 0; TensorRT takes 1: export a sorted TopK")


def _attention(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    names = dict(zip("QKV", node.input, strict=False))
    for role, name in names.items():
        rank = facts.rank(name)
        if rank not in (4, None):
            message = (
                f"has {role} of {rank} dimensions; TensorRT takes batch, heads, tokens, size: reshape to 4"
            )
            yield _finding("attention", node, message)
    k, v = (facts.shapes.get(names[role], [None])[-1] for role in "KV")
    if k is not None and v is not None and k != v:
        message = f"has head size {v} in V and {k} in K; TensorRT takes equal ones: pad V, or write MatMuls"
        yield _finding("attention", node, message)


def _scatter(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    reduction = _text(node, "reduction", "none")
    if reduction != "none":
        message = f"has reduction {reduction!r}; TensorRT without plugins takes 'none': gather instead"
        yield _finding("scatter", node, message)


def _resize(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    mode = _text(node, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        message = f"has mode {mode!r}; TensorRT takes 'nearest' and 'linear': resize outside the graph"
        yield _finding("resize", node, message)
    if _number(node, "antialias", 0):
        yield _finding("resize", node, "has antialias = 1; TensorRT takes 0: resize outside the graph")


def _einsum(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    equation = _text(node, "equation", "")
    message = f"is {equation!r}; TensorRT runs it but does not fuse it: write a MatMul"
    yield _finding("einsum", node, message, "warning")


def _index(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    index = node.input[1]
    if facts.types.get(index) != T.INT64:
        return
    values = facts.values(index)
    if values is not None and values.size and (values.min() < INT32.min or values.max() > INT32.max):
        return
    message = f"is indexed by {index!r} in int64; TensorRT is faster with int32: compute the index as int32"
    yield _finding("int64-index", node, message, "warning")


def _index_and_scatter(node: onnx.NodeProto, facts: _Facts) -> Iterator[Finding]:
    yield from _scatter(node, facts)
    yield from _index(node, facts)


Rule = Callable[[onnx.NodeProto, _Facts], Iterator[Finding]]

RULES: dict[str, Rule] = {
    "Attention": _attention,
    "Einsum": _einsum,
    "Gather": _index,
    "GatherElements": _index,
    "Resize": _resize,
    "ScatterElements": _index_and_scatter,
    "ScatterND": _scatter,
    "TopK": _top_k,
}


def _finding(rule: str, node: onnx.NodeProto, message: str, severity: Severity = "error") -> Finding:
    return Finding(rule, node.name or node.output[0], node.op_type, message, severity)


def _text(node: onnx.NodeProto, name: str, default: str) -> str:
    """A string attribute, or ONNX's default if it is missing."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), default)


def _number(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute, or ONNX's default if it is missing."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
