"""Slices that take everything."""

import onnx_graphsurgeon as gs

from .rewire import Dim, Node, bypass, dims, ints

# Exporters write "to the end" as the largest int64 or int32; no dimension reaches the smaller one.
TO_THE_END = 2**31 - 1


def drop_slices(graph: gs.Graph) -> int:
    """Take out `Slice` nodes that start at the beginning, end at the end and skip nothing on every axis.

    Known from constant bounds: step 1, start 0 (or as negative as the dimension is long), and an end not
    below a known dimension, or "to the end" where it is not known. Leaves computed bounds, and anything on an
    unknown dimension with an end that could fall inside it.
    """
    return sum(bypass(graph, node) for node in graph.nodes if node.op == "Slice" and _takes_all(node))


def _takes_all(node: Node) -> bool:
    shape = dims(node.inputs[0])
    bounds = [ints(tensor) for tensor in node.inputs[1:] if not tensor.is_empty()]
    if shape is None or len(node.inputs) != 1 + len(bounds) or len(bounds) < 2:
        return False
    if any(bound is None for bound in bounds):
        return False
    starts, ends, *rest = [bound for bound in bounds if bound is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    return all(
        step == 1 and _starts_at_zero(start, shape[axis]) and _reaches(end, shape[axis])
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True)
    )


def _starts_at_zero(start: int, size: Dim) -> bool:
    return start == 0 or (isinstance(size, int) and start <= -size)


def _reaches(end: int, size: Dim) -> bool:
    return end >= (size if isinstance(size, int) else TO_THE_END)
