"""Computes at export what does not depend on the input."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_graphsurgeon as gs

from structsam_runtime.runners.onnxruntime import library

from .rewire import Node, Tensor, static_shape

# How many bytes one folded node may add to the file. Two int64 coordinates for each of the 64 x 64 tokens are
# 64 KiB, so shapes, axes, masks and index grids fold, and a relative-position table [side, side, head] or an
# index widened to all channels does not. TensorRT and ONNX Runtime compute what is left once, when they load
# it: beyond this size folding buys nothing and costs the user a download.
MAX_GROWTH = 64 * 1024

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

QUIET, WARNING = 4, 2
"""Severities of ONNX Runtime's log; the second is its default."""


def fold_constants(graph: gs.Graph) -> int:
    """Replace what constants alone decide by its value: onnx_graphsurgeon's folding, within limits.

    For every reader of the graph: 102 nodes of ViT-B at rate 0.55, of 848, and the constants that the other
    rules look for. (onnxscript's folding has run when the tracer is done, and finds nothing more.)

    Leaves random operators, quantisation, graph outputs, types that numpy has not, and nodes that would add
    more than `MAX_GROWTH` bytes to the file: what they produce, less what nobody else reads.

    Exact: ONNX Runtime's CPU kernels compute the value, as they would each time the graph is loaded. (A
    `MatMul` whose weight has become a constant may still round differently there: it is packed, and summed in
    that order.) One value that they cannot compute leaves everything as it is.
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
    """Write a `Constant`'s numbers as a tensor: onnx_graphsurgeon would read them as float64."""
    for name in ("value_float", "value_floats"):
        if node.op == "Constant" and name in node.attrs:
            node.attrs["value"] = gs.Constant(node.name, np.array(node.attrs.pop(name), np.float32))


def _fits(node: Node) -> bool:
    """Whether a node's value may take the place of the node."""
    made = [_bytes(tensor) for tensor in node.outputs]
    alone = {t.name: t for t in node.inputs if all(reader is node for reader in t.outputs)}
    freed = [_bytes(tensor) or 0 for tensor in alone.values()]
    return all(size is not None for size in made) and sum(filter(None, made)) <= MAX_GROWTH + sum(freed)


def _bytes(tensor: Tensor) -> int | None:
    """Size of a tensor; None where it is not known, or where numpy has not the type."""
    shape, dtype = static_shape(tensor), tensor.dtype
    if shape is None or not isinstance(dtype, np.dtype) or dtype.isbuiltin != 1:
        return None
    return math.prod(shape) * dtype.itemsize


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's notes on kernels that it lacks off the user's terminal: it casts instead."""
    # Not at the top: once it is imported, PyTorch may round otherwise (by a bit, in the position encoding).
    ort = library()
    ort.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        ort.set_default_logger_severity(WARNING)
