"""Casts that change nothing."""

import numpy as np
import onnx
import onnx.helper
import onnx_graphsurgeon as gs

from .rewire import Node, Tensor, bypass, only_reader, producer

T = onnx.TensorProto

# From each type, the wider ones that hold every value of it: a cast there and on to a third type rounds once,
# in the second step, exactly as the direct cast does.
LOSSLESS: dict[int, set[int]] = {
    T.BOOL: {T.INT32, T.INT64, T.FLOAT16, T.BFLOAT16, T.FLOAT},
    T.INT32: {T.INT64},
    T.FLOAT16: {T.FLOAT},
    T.BFLOAT16: {T.FLOAT},
}


def drop_casts(graph: gs.Graph) -> int:
    """Take out casts that keep the type, and shorten casts that widen and come back.

    1. `Cast` or `CastLike` to the type its input has.
    2. Two casts of which the first is lossless (`LOSSLESS`) become one: int32 -> int64 -> int32 and
       fp16 -> fp32 -> fp16 are nothing, int32 -> int64 -> fp32 is int32 -> fp32.
    3. `CastLike` a tensor of a known type is a `Cast`: of the tensor it reads the type only. What it casts
       may be a constant, and then folds.

    Leaves pairs whose first step rounds, fp32 -> fp16 -> fp32 among them: that is where precision was
    decided.
    """
    return sum(_drop(graph, node) for node in graph.nodes if node.op in ("Cast", "CastLike"))


def _drop(graph: gs.Graph, node: Node) -> int:
    kind, target = _kind(node.inputs[0]), _target(node)
    if kind is not None and kind == target:
        return int(bypass(graph, node))
    if node.op == "CastLike":
        return _to_cast(node, target)
    inner = producer(node.inputs[0])
    if inner is None or inner.op != "Cast":
        return 0
    source = _kind(inner.inputs[0])
    if source is None or inner.attrs["to"] not in LOSSLESS.get(source, set()):
        return 0
    if source != target and not only_reader(graph, node.inputs[0]):
        return 0  # both casts would stay, and nothing be gained
    node.inputs[0] = inner.inputs[0]
    if source == target:
        bypass(graph, node)  # or leave a cast to its own type: a copy that names an output
    return 1


def _to_cast(node: Node, target: int | None) -> int:
    if target is None:
        return 0
    node.op, node.attrs = "Cast", {"to": target}
    del node.inputs[1]
    return 1


def _kind(tensor: Tensor) -> int | None:
    """The ONNX number of a tensor's type."""
    if tensor.dtype is None or isinstance(tensor.dtype, int):
        return tensor.dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))


def _target(node: Node) -> int | None:
    if node.op == "CastLike":
        return _kind(node.inputs[1])
    to = node.attrs["to"]
    return int(to) if isinstance(to, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to)))
