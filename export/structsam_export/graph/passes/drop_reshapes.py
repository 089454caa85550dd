"""Reshapes that keep the shape, and reshapes of reshapes."""

import onnx_graphsurgeon as gs

from .rewire import Dim, Node, bypass, dims, ints, only_reader, producer

# These keep the order of elements in memory and only change the shape.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def drop_reshapes(graph: gs.Graph) -> int:
    """Remove nodes that keep the shape, and merge a view and a following `Reshape` into one `Reshape`.

    1. A view whose output has the shape of its input. One dimension, the same on both sides, may be unknown:
       the number of elements is equal, so this dimension is too. `Expand` is removed only if every dimension
       is known or has a name, and is the same on both sides.
    2. `Reshape` of another view that has no other reader, or that it undoes. Both keep the order of the
       elements, so only the outer shape matters; its -1 depends on the number of elements only.

    Keeps an outer `Reshape` with a 0, which may copy a dimension of the inner result, or with a computed
    shape.

    For every runtime: 68 of 814 nodes of ViT-B at rate 0.55, and 143 with a dynamic batch. (onnxscript's
    rules for views find 24 in both cases.)
    """
    return sum(_drop(graph, node) for node in graph.nodes if node.op in VIEWS or node.op == "Expand")


def _drop(graph: gs.Graph, node: Node) -> int:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is not None and after is not None and _is_same(node.op, before, after):
        return int(bypass(graph, node))
    inner = producer(node.inputs[0])
    if (
        node.op != "Reshape"
        or inner is None
        or inner.op not in VIEWS
        or not (only_reader(graph, node.inputs[0]) or _undoes(inner, after))
    ):
        return 0
    target = ints(node.inputs[1])
    if target is None or 0 in target:
        return 0
    node.inputs[0] = inner.inputs[0]
    return 1


def _undoes(inner: Node, after: list[Dim] | None) -> bool:
    """Whether the result of its reader has the shape of the input of a view."""
    before = dims(inner.inputs[0])
    return before is not None and after is not None and _is_same("Reshape", before, after)


def _is_same(op: str, before: list[Dim], after: list[Dim]) -> bool:
    if len(before) != len(after):
        return False
    pairs = list(zip(before, after, strict=True))
    if op == "Expand":
        return all(old == new and old is not None for old, new in pairs)
    unknown = [pair for pair in pairs if not all(isinstance(d, int) and d > 0 for d in pair)]
    return len(unknown) <= 1 and all(old == new for old, new in pairs if (old, new) not in unknown)
