"""Where ONNX Runtime runs the nodes of a model: on a GPU, only arithmetic on shapes may be on the CPU.

ONNX Runtime takes the CPU in silence for whatever its GPU provider has no kernel for. It also takes the CPU
for arithmetic on shapes: a few integers that say how large the next tensor is, which the CPU has to know.

A session reports names and operators of the nodes on each device, not their types. Which of them are of
shapes follows from the model: all that is made of Shape and Size without the values of an input or a weight.
"""

from typing import Any

from ..errors import UserError
from .protobuf import fields, text, texts

RECORD = ("session.record_ep_graph_assignment_info", "1")
"""The option of a session that keeps where its nodes run."""
Node = tuple[str, str]
"""Operator and name."""

_NAMED = 5
"""Nodes that a message names."""
_COUNTING = ("Shape", "Size")
_BRANCHING = ("If", "Loop", "Scan")
"""Operators with graphs within, which read more than the inputs of the node."""
_INT64 = 7
# Numbers of fields in onnx.proto.
_GRAPH = 7  # of a model
_NODE, _INITIALIZER, _GRAPH_INPUT = 1, 5, 11  # of a graph
_INPUT, _OUTPUT, _NAME, _OPERATOR = 1, 2, 3, 4  # of a node
_TENSOR_TYPE, _TENSOR_NAME = 2, 8
_VALUE_NAME = 1


def require_gpu(session: Any, model: memoryview, name: str, remedy: str) -> None:
    """Check that a session runs every node on the GPU, other than those of shapes.

    Args:
        session: made with the option RECORD.
        model: the bytes of its ONNX file.
        name: of the model, for the message.
        remedy: what to do, for the message.

    Raises:
        UserError: others are on the CPU; names them.
    """
    shapes = of_shapes(model)
    astray = [" ".join(node) for node in _on_the_cpu(session) if node not in shapes]
    if astray:
        more = f" and {len(astray) - _NAMED} more" if len(astray) > _NAMED else ""
        raise UserError(
            f"ONNX Runtime has no GPU kernel for nodes of {name} and would run them on the CPU: "
            f"{', '.join(astray[:_NAMED])}{more}; {remedy}"
        )


def of_shapes(model: memoryview) -> set[Node]:
    """The nodes of a model that compute with shapes.

    Args:
        model: the bytes of an ONNX file, whose nodes are in the order in which they run. Two of the same
            operator and name are of shapes if both are.
    """
    graph = fields(fields(model)[_GRAPH][0])
    values = {text(one, _VALUE_NAME) for one in graph[_GRAPH_INPUT]}
    weights = [one for one in graph[_INITIALIZER] if fields(one)[_TENSOR_TYPE] != [_INT64]]
    values |= {text(one, _TENSOR_NAME) for one in weights}  # the type of shapes and axes is int64
    shapes: set[str] = set()
    found: dict[bool, set[Node]] = {True: set(), False: set()}
    for node in graph[_NODE]:
        inputs, outputs = (set(texts(node, which)) - {""} for which in (_INPUT, _OUTPUT))
        operator = text(node, _OPERATOR)
        counts = operator in _COUNTING or not (
            values & inputs or shapes.isdisjoint(inputs) or operator in _BRANCHING
        )
        if counts:
            shapes |= outputs
        elif values & inputs or operator in _BRANCHING:
            values |= outputs
        found[counts].add((operator, text(node, _NAME)))
    return found[True] - found[False]


def _on_the_cpu(session: Any) -> list[Node]:
    return [
        (node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    ]
