"""Compute at export what does not depend on the input."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_graphsurgeon as gs

from structsam_runtime.runners.onnxruntime import library

from .rewire import Node, Tensor, static_shape

# How many bytes one folded node may add to the file. Two int64 coordinates for each of the 64 x 64 tokens are
# 64 KiB, so shapes, axes, masks and index grids fold, and a relative-position table [side, side, head] or an
# index expanded to all channels does not. TensorRT and ONNX Runtime compute the rest once, when they load the
# graph: above this size folding saves nothing and makes the file larger.
MAX_GROWTH = 64 * 1024

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

QUIET, WARNING = 4, 2
"""Severities of ONNX Runtime's log; the second is its default."""


def fold_constants(graph: gs.Graph) -> int:
    """Replace nodes that depend on constants only by their values: onnx_graphsurgeon's folding, with limits.

    For every runtime: 102 of 848 nodes of ViT-B at rate 0.55, and the constants that the other rules look
    for. (The tracer already runs onnxscript's folding, which finds nothing more.)

    Keeps random operators, quantisation, graph outputs, types that NumPy lacks, and nodes that would add more
    than `MAX_GROWTH` bytes to the file: the size of their outputs minus that of inputs without other readers.

    Exact: ONNX Runtime's CPU kernels compute the value, as they would each time the graph is loaded. (A
    `MatMul` whose weight has become a constant may round differently there, because ONNX Runtime packs the
    weight and sums in another order.) If one value cannot be computed, nothing is folded.
    """
    before = len(graph.nodes)
    for node in graph.nodes:
        _keep_float(node)
    outputs = {tensor.name for tensor in graph.outputs}
    with _quiet():
        graph.toposort().fold_constants(
            fold_shapes=False,
            should_exclude_node=lambda node: (
                node.op in RANDOM or any(output.name in outputs for output in node.outputs) or not _fits(node)
            ),
        )
    return before - len(graph.cleanup().nodes)


def _keep_float(node: Node) -> None:
    """Store the numbers of a `Constant` as a float32 tensor: onnx_graphsurgeon would read them as float64."""
    for name in ("value_float", "value_floats"):
        if node.op == "Constant" and name in node.attrs:
            node.attrs["value"] = gs.Constant(node.name, np.array(node.attrs.pop(name), np.float32))


def _fits(node: Node) -> bool:
    """Whether replacing a node by its value adds at most `MAX_GROWTH` bytes."""
    made = [_bytes(tensor) for tensor in node.outputs]
    alone = {t.name: t for t in node.inputs if all(reader is node for reader in t.outputs)}
    freed = [_bytes(tensor) or 0 for tensor in alone.values()]
    return all(size is not None for size in made) and sum(filter(None, made)) <= MAX_GROWTH + sum(freed)


def _bytes(tensor: Tensor) -> int | None:
    """Size of a tensor in bytes; None if it is unknown, or if NumPy lacks the type."""
    shape, dtype = static_shape(tensor), tensor.dtype
    if shape is None or not isinstance(dtype, np.dtype) or dtype.isbuiltin != 1:
        return None
    return math.prod(shape) * dtype.itemsize


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ONNX Runtime's warnings about kernels that it lacks; it inserts casts instead."""
    # Not at the top: importing it can change PyTorch's rounding (by one bit, in the position encoding).
    ort = library()
    ort.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        ort.set_default_logger_severity(WARNING)
