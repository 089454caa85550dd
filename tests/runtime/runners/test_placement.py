"""Which nodes of a model are of shapes: read by the runtime and by ONNX, from graphs of any form."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from structsam_runtime.runners.placement import Node, of_shapes

INPUTS, WEIGHTS, AXES = ["image", "labels"], ["weight", "table"], ["axis", "rest"]
OPERATORS = ["Shape", "Size", "Add", "Concat", "Gather", "Reshape", "If"]


@st.composite
def graphs(draw: st.DrawFn) -> onnx.GraphProto:
    """Up to ten nodes, each of earlier results, an input, a weight or an int64 constant, or without some."""
    known, nodes = ["", *INPUTS, *WEIGHTS, *AXES], []
    for number in range(draw(st.integers(1, 10))):
        name = draw(st.sampled_from(["", f"node {number}", "the same"]))
        taken = draw(st.lists(st.sampled_from(known), max_size=3))
        given = [f"result {number}", *draw(st.sampled_from([[], [f"other {number}"], [""]]))]
        options = {"axis": 1, "note": "ä" * 200, "share": 0.5} if draw(st.booleans()) else {}
        nodes.append(helper.make_node(draw(st.sampled_from(OPERATORS)), taken, given, name, **options))
        known += [result for result in given if result]
    values = [
        *(numpy_helper.from_array(np.zeros((30, 20), np.float32), name) for name in WEIGHTS),
        *(numpy_helper.from_array(np.zeros(draw(st.integers(0, 3)), np.int64), name) for name in AXES),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 300]) for name in INPUTS]
    return helper.make_graph(nodes, "any", inputs, [], values)


def reference(graph: onnx.GraphProto) -> set[Node]:
    """From a node back to all that it is made of: shapes, and neither an input nor a weight."""
    makers = {result: node for node in graph.node for result in node.output if result}

    def sources(node: Any) -> set[str]:
        if node.op_type in ("Shape", "Size"):
            return {"shape"}
        found = {"value"} if node.op_type == "If" else set()
        for name in node.input:
            found |= sources(makers[name]) if name in makers else set()
        return found | {"value" for name in node.input if name in INPUTS + WEIGHTS}

    def key(node: Any) -> Node:
        return node.op_type, node.name

    kinds = [(key(node), sources(node) == {"shape"}) for node in graph.node]
    return {one for one, of_shapes in kinds if of_shapes} - {one for one, of_shapes in kinds if not of_shapes}


@given(graphs(), st.booleans())
def test_nodes_of_shapes_are_those_that_no_value_reaches(graph: onnx.GraphProto, described: bool) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if described:
        helper.set_model_props(model, {"structsam.export": "an id"})
    assert of_shapes(memoryview(model.SerializeToString())) == reference(graph)


@pytest.mark.parametrize("value", ["image", "weight"])
def test_a_value_that_meets_a_shape_is_not_of_shapes(value: str) -> None:
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], "shape"),
        helper.make_node("Add", ["shape", "axis"], ["more"], "add"),
        helper.make_node("Expand", [value, "more"], ["wide"], "expand"),
        helper.make_node("Add", ["wide", "shape"], ["sum"], "other"),
    ]
    assert read(nodes) == {("Shape", "shape"), ("Add", "add")}
    nodes[3].name = "add"  # as the one of shapes
    assert read(nodes) == {("Shape", "shape")}


def read(nodes: list[onnx.NodeProto]) -> set[Node]:
    """What is of shapes in a graph with an input, a weight and a constant of int64."""
    values = [
        numpy_helper.from_array(np.zeros((30, 20), np.float32), "weight"),
        numpy_helper.from_array(np.zeros(2, np.int64), "axis"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 300])]
    graph = helper.make_graph(nodes, "one", inputs, [], values)
    return of_shapes(memoryview(helper.make_model(graph).SerializeToString()))


def test_a_file_is_read_in_place(tmp_path: Any) -> None:
    """As weights of gigabytes are, which are skipped."""
    node = helper.make_node("Shape", ["image"], ["size"], "shape")
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("image", 1, [3])], [])
    (tmp_path / "one.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    mapped = np.memmap(tmp_path / "one.onnx", np.uint8, "r")
    assert of_shapes(memoryview(mapped)) == {("Shape", "shape")}
