"""Turns computed shapes into constants."""

import math

import numpy as np
import onnx_graphsurgeon as gs

from .rewire import (
    Dim,
    Node,
    Tensor,
    dims,
    ints,
    is_output,
    new_constant,
    producer,
    static_shape,
)

# Operators a shape passes through on its way from Shape to Reshape; arithmetic on known numbers is left to
# constant folding, arithmetic on an unknown one has no value.
CHAIN = frozenset({"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Identity"})


def fold_shapes(graph: gs.Graph) -> int:
    """Replace what is computed from shapes by constants, with at most one dimension left open.

    1. A tensor on the way from `Shape` to its use whose every element is known becomes a constant.
    2. `Reshape` to a computed shape takes a constant with -1 for the one dimension that is not known (the
       batch). Exact because the number of elements is fixed: the others, all above zero, leave one value for
       it.
    3. `Expand` to a computed shape takes a constant with 1 for every dimension that its input already has
       under the same name: 1 asks for the size that is there.

    Leaves a `Reshape` with two unknown dimensions or with a zero among them (0 copies a dimension or means
    zero, by `allowzero`), an `Expand` that widens an unknown dimension, and tensors that are graph outputs.
    """
    taken = set(graph.tensors())
    return sum(_known_value(graph, node) + _known_target(node, taken) for node in graph.nodes)


def _known_value(graph: gs.Graph, node: Node) -> int:
    if node.op not in CHAIN or len(node.outputs) != 1 or is_output(graph, node.outputs[0]):
        return 0
    output = node.outputs[0]
    elements, shape = _elements(output), static_shape(output)
    if elements is None or None in elements or shape is None:
        return 0
    node.inputs.clear()
    node.outputs.clear()
    output.to_constant(np.array(elements, dtype=output.dtype).reshape(shape))
    return 1


def _known_target(node: Node, taken: set[str]) -> int:
    if (
        node.op not in ("Reshape", "Expand")
        or len(node.inputs) != 2
        or isinstance(node.inputs[1], gs.Constant)
    ):
        return 0
    target = _reshape_target(node) if node.op == "Reshape" else _expand_target(node)
    if target is None:
        return 0
    name = f"{node.outputs[0].name}_shape"
    node.inputs[1] = new_constant(name, np.array(target, dtype=np.int64), taken)
    return 1


def _reshape_target(node: Node) -> list[int] | None:
    for candidate in (dims(node.outputs[0]), _elements(node.inputs[1])):
        target = [d if isinstance(d, int) else -1 for d in candidate or []]
        if candidate is not None and target.count(-1) <= 1 and all(d == -1 or d > 0 for d in target):
            return target
    return None


def _expand_target(node: Node) -> list[int] | None:
    source, result = dims(node.inputs[0]), dims(node.outputs[0])
    if source is None or result is None or len(source) > len(result):
        return None
    aligned = [1] * (len(result) - len(source)) + source
    target = [_expand_dim(old, new) for old, new in zip(aligned, result, strict=True)]
    return None if None in target else [d for d in target if d is not None]


def _expand_dim(old: Dim, new: Dim) -> int | None:
    if isinstance(new, int):
        return new
    return 1 if new is not None and old == new else None


def _elements(tensor: Tensor) -> list[int | None] | None:
    """The elements of a shape, axis or size tensor, None for those not known; None for any other tensor."""
    constant = ints(tensor)
    if constant is not None:
        return list(constant)
    if isinstance(tensor, gs.Constant) or tensor.dtype not in (np.int32, np.int64):
        return None
    node = producer(tensor)
    if node is not None and node.op in CHAIN:
        traced = _traced(node)
        if traced is not None:
            return traced
    shape = static_shape(tensor)
    return [None] * math.prod(shape) if shape is not None and len(shape) <= 1 else None


def _traced(node: Node) -> list[int | None] | None:
    if node.op in ("Shape", "Size"):
        return _shape_elements(node)
    if node.op == "Concat":
        parts = [_elements(tensor) for tensor in node.inputs]
        return None if any(part is None for part in parts) else [d for part in parts for d in part or []]
    source = _elements(node.inputs[0])
    if source is None or len(dims(node.inputs[0]) or []) > 1:
        return None
    if node.op == "Gather":
        index = ints(node.inputs[1])
        return None if index is None else [source[i] for i in index]
    if node.op == "Slice":
        return _sliced(source, [ints(tensor) for tensor in node.inputs[1:]])
    return source  # Squeeze, Unsqueeze, and Cast from one integer type to another


def _shape_elements(node: Node) -> list[int | None] | None:
    shape = dims(node.inputs[0])
    if shape is None:
        return None
    sizes = [d if isinstance(d, int) else None for d in shape]
    if node.op == "Shape":
        return sizes[node.attrs.get("start", 0) : node.attrs.get("end", len(sizes))]
    return [None if None in sizes else math.prod(d for d in sizes if d is not None)]


def _sliced(source: list[int | None], bounds: list[list[int] | None]) -> list[int | None] | None:
    """Slice of a vector: bounds are starts, ends, and perhaps axes and steps."""
    if len(bounds) < 2 or any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, end, *rest = [value for bound in bounds for value in bound or []]
    step = rest[1] if len(rest) > 1 else 1
    return source[start:end:step]
