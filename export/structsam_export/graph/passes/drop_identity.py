"""Identity nodes, which tracers leave for renamed values."""

import onnx_graphsurgeon as gs

from .rewire import bypass


def drop_identity(graph: gs.Graph) -> int:
    """Take out `Identity`, whose output is its input by definition.

    Leaves those that give a graph output its name where nothing else can: the input is a graph input, a
    constant, or another graph output.
    """
    return sum(bypass(graph, node) for node in graph.nodes if node.op == "Identity")
