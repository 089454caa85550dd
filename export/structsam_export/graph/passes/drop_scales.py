"""Scale factors of scores of which only the order is used."""

import numpy as np
import onnx_graphsurgeon as gs

from .rewire import Node, Tensor, bypass, dims, is_output

# Their results are elements of the input, its largest or smallest element, and possibly zeros.
KEEP_ORDER = frozenset(
    {"Gather", "Reshape", "Slice", "Squeeze", "Unsqueeze", "ReduceMax", "ReduceMin", "Neg"}
)
ORDER = frozenset({"ArgMax", "ArgMin", "TopK"})


def drop_scales(graph: gs.Graph) -> int:
    """Remove `Mul` by a positive power of two if only the order of the products is used.

    The product is followed through gathers, views, maxima, minima and concatenated zeros to the indices of
    `TopK`, `ArgMax` and `ArgMin`. Exact: the factor does not round and keeps the order, ties included. Keeps
    a product whose value is used or is an output, and every other factor.

    Only for the size of the graph: one node per Sobel energy, which is twice a sum of squares; 12 nodes of
    ViT-B at rate 0.55, which has to stay under 750 nodes and has 746.
    """
    return sum(
        bypass(graph, node)
        for node in graph.nodes
        if node.op == "Mul" and _is_scale(node) and _only_ordered(graph, node.outputs[0])
    )


def _is_scale(node: Node) -> bool:
    """Whether the second input is one positive power of two, and the first determines the shape."""
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
    """Whether one reader uses only the order of `tensor`, its data."""
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
