"""Transposes that undo each other."""

import onnx_graphsurgeon as gs

from .rewire import Node, bypass, dims, only_reader, producer


def drop_transposes(graph: gs.Graph) -> int:
    """Take out transposes that keep the order, alone or two together, and make one of two.

    With inner order p and outer order q, dimension i of the result is dimension p[q[i]] of the input: one
    `Transpose` in that order moves every element to the same place. Leaves a pair whose inner result is used
    elsewhere, unless the two undo each other, and transposes without an order whose rank is not known.
    """
    return sum(_drop(graph, node) for node in graph.nodes if node.op == "Transpose")


def _drop(graph: gs.Graph, node: Node) -> int:
    order = _order(node)
    if order is None:
        return 0
    if order == sorted(order):
        return int(bypass(graph, node))
    inner = producer(node.inputs[0])
    inner_order = _order(inner) if inner is not None and inner.op == "Transpose" else None
    if inner is None or inner_order is None:
        return 0
    order = [inner_order[axis] for axis in order]
    if order != sorted(order) and not only_reader(graph, node.inputs[0]):
        return 0
    node.attrs["perm"] = order
    node.inputs[0] = inner.inputs[0]
    if order == sorted(order):
        bypass(graph, node)  # where it cannot, an identity is left: a copy that gives an output its name
    return 1


def _order(node: Node) -> list[int] | None:
    if "perm" in node.attrs:
        return list(node.attrs["perm"])
    shape = dims(node.inputs[0])
    return None if shape is None else list(reversed(range(len(shape))))
