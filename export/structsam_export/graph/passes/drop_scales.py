"""Factors of what is only ever ordered."""

import numpy as np
import onnx_graphsurgeon as gs

from .rewire import Node, Tensor, bypass, dims, is_output

# What these give is their input's elements, or the largest or smallest of them, and perhaps zeros.
KEEP_ORDER = frozenset(
    {"Gather", "Reshape", "Slice", "Squeeze", "Unsqueeze", "ReduceMax", "ReduceMin", "Neg"}
)
ORDER = frozenset({"ArgMax", "ArgMin", "TopK"})


def drop_scales(graph: gs.Graph) -> int:
    """Take out `Mul` by a positive power of two where nothing but the order of the products is read.

    Followed through gathers, views, largest and smallest elements and zeros that are put beside, to the
    indices of `TopK`, `ArgMax` and `ArgMin`. Exact: the factor rounds nothing and keeps the order, ties
    included. Leaves a product whose value is read or is an output, and every other factor.

    For the size of the graph alone: one node per Sobel energy, which is twice a sum of squares, 12 of ViT-B
    at rate 0.55, which has to stay under 750 and has 746.
    """
    return sum(
        bypass(graph, node)
        for node in graph.nodes
        if node.op == "Mul" and _is_scale(node) and _only_ordered(graph, node.outputs[0])
    )


def _is_scale(node: Node) -> bool:
    """Whether the second input is one positive power of two, and the first decides the shape."""
    product, factor = node.inputs
    if isinstance(product, gs.Constant) or not isinstance(factor, gs.Constant) or factor.values.size != 1:
        return False
    value = float(factor.values.item())
    keeps = dims(product) is not None and len(factor.shape) <= len(dims(product) or [])
    return keeps and factor.dtype.kind == "f" and value > 0 and np.frexp(value)[0] == 0.5


def _only_ordered(graph: gs.Graph, tensor: Tensor) -> bool:
    if is_output(graph, tensor) or not tensor.outputs:
        return False
    return all(_orders(graph, reader, tensor) for reader in tensor.outputs)


def _orders(graph: gs.Graph, reader: Node, tensor: Tensor) -> bool:
    """Whether one reader keeps or makes an order, with `tensor` as its data."""
    if reader.op == "TopK":
        values = reader.outputs[0]
        return not values.outputs and not is_output(graph, values)
    if reader.op == "Concat":
        others = [other for other in reader.inputs if other is not tensor]
        zeros = all(isinstance(other, gs.Constant) and not other.values.any() for other in others)
        return zeros and _only_ordered(graph, reader.outputs[0])
    if reader.inputs[0] is not tensor:
        return False
    return reader.op in ORDER or (reader.op in KEEP_ORDER and _only_ordered(graph, reader.outputs[0]))
