"""Constants of a captured program, computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument


def fold(program: ExportedProgram) -> None:
    """Compute what depends on neither inputs nor weights, and keep the results as constants, in place.

    More than half of a merged encoder's operators compute indices of windows and cells. PyTorch computes them
    in milliseconds; as nodes of ONNX they cost the exporter a third of its time.

    Args:
        program: as `torch.export.export` returns it. One with operators that write to their inputs stays as
            it is; operators that draw random numbers stay.
    """
    graph = program.graph
    if any(_writes(node) for node in graph.nodes):
        return
    first = next(iter(graph.nodes))
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if _is_constant(node, known):
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        users = [user for user in node.users if user not in known]
        if users:
            new = _constant(program, f"folded_{node.name}", value, first)
            for user in users:
                user.replace_input_with(node, new)
    for node in reversed(known):
        graph.erase_node(node)
    program.graph_module.recompile()


def _writes(node: fx.Node) -> bool:
    """Whether a node is an operator that changes one of its inputs."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_constant(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    """Whether a node computes tensors, always the same ones, from nodes of which that is known."""
    if node.op != "call_function" or not all(source in known for source in node.all_input_nodes):
        return False
    if any(user.op == "output" for user in node.users):
        return False  # the signature has its name
    if isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _constant(program: ExportedProgram, name: str, value: Tensor, first: fx.Node) -> fx.Node:
    """Give a program a constant: an input in its signature, before those of the user."""
    with program.graph.inserting_before(first):
        node: fx.Node = program.graph.placeholder(name)
    node.meta["val"] = first.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    place = list(program.graph.find_nodes(op="placeholder")).index(node)
    spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name)
    program.graph_signature.input_specs.insert(place, spec)
    program.constants[name] = value
    return node
