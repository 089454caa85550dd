"""Helpers of the rules: read constants and shapes, and connect readers past a node."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

Dim = int | str | None  # a size, a name such as "batch", or unknown
Tensor = Any  # gs.Variable | gs.Constant: onnx_graphsurgeon carries no types
Node = Any

# Axes, sizes and bounds have one entry per dimension; longer constants are index tensors or weights.
MAX_INTS = 64


def is_output(graph: gs.Graph, tensor: Tensor) -> bool:
    return any(tensor is output for output in graph.outputs)


def producer(tensor: Tensor) -> Node | None:
    """The node that computes a tensor; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def ints(tensor: Tensor) -> list[int] | None:
    """The values of a short integer constant, flattened; None for anything else."""
    if not isinstance(tensor, gs.Constant) or tensor.dtype not in (np.int32, np.int64):
        return None
    if int(np.prod(tensor.shape)) > MAX_INTS:
        return None
    return [int(value) for value in tensor.values.ravel()]


def dims(tensor: Tensor) -> list[Dim] | None:
    """The shape as far as it is known, one entry per dimension; None if the rank is unknown."""
    if tensor.shape is None:
        return None
    return [_dim(d) for d in tensor.shape]


def _dim(entry: Dim) -> Dim:
    """An entry of a shape; negative sizes mean unknown, as None does."""
    return None if isinstance(entry, int) and entry < 0 else entry


def static_shape(tensor: Tensor) -> list[int] | None:
    """The shape if every dimension is a number, else None."""
    known = [d for d in dims(tensor) or [] if isinstance(d, int)]
    return known if tensor.shape is not None and len(known) == len(tensor.shape) else None


def redirect(old: Tensor, new: Tensor) -> None:
    """Make every reader of `old` read `new`."""
    for reader in list(old.outputs):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new


def bypass(graph: gs.Graph, node: Node) -> bool:
    """Remove a node whose output equals its first input; False, without an edit, if that is impossible.

    A graph output keeps its name: the node that computes the input then computes the output directly. That
    is impossible if the input is a graph input or a constant, which no node computes, or another graph
    output, whose name must be kept too.
    """
    source, target = node.inputs[0], node.outputs[0]
    if not is_output(graph, target):
        redirect(target, source)
    else:
        maker = producer(source)
        if maker is None or is_output(graph, source):
            return False
        node.outputs.clear()
        redirect(source, target)
        maker.outputs[[output is source for output in maker.outputs].index(True)] = target
    node.inputs.clear()
    node.outputs.clear()
    return True


def only_reader(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether a tensor has one reader and is not an output, so that its producer is unused without it."""
    return len(tensor.outputs) == 1 and not is_output(graph, tensor)


def new_constant(name: str, values: npt.NDArray[Any], taken: set[str]) -> Tensor:
    """A constant under `name`, or under the next free name after it; the name joins `taken`."""
    candidates = itertools.chain([name], (f"{name}_{count}" for count in itertools.count()))
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return gs.Constant(free, values)
