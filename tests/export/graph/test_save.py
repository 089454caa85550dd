"""Models on the disk."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from structsam_export.graph import save as module
from structsam_export.graph.save import add_metadata, save
from structsam_runtime import OnnxRuntimeRunner, UserError
from structsam_runtime.runners.onnxruntime import EXPORT

WEIGHT = np.arange(4096, dtype=np.float32)


def model() -> onnx.ModelProto:
    """y = x + w."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("limit", [0, module.PROTOBUF_LIMIT])
def test_metadata_is_added_to_a_model_that_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path, other = tmp_path / "encoder.onnx", tmp_path / "other.onnx"
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", limit)
    save(model(), path)
    before = onnx.load(path, load_external_data=False)
    add_metadata(path, EXPORT, "mine")
    save(model(), other)
    after = onnx.load(path, load_external_data=False)
    assert {prop.key: prop.value for prop in after.metadata_props} == {EXPORT: "mine"}
    assert after.graph == before.graph
    assert (tmp_path / "encoder.onnx.data").exists() == (limit == 0)
    for said in ("mine", None):
        with OnnxRuntimeRunner(path, export=said) as runner:
            np.testing.assert_array_equal(runner.infer({"x": WEIGHT})["y"], 2 * WEIGHT)
    with OnnxRuntimeRunner(other, export="mine") as runner:  # older than ids
        assert runner.outputs.keys() == {"y"}
    with (
        pytest.raises(UserError, match=r"encoder\.onnx is of another export than its manifest"),
        OnnxRuntimeRunner(path, export="other"),
    ):
        pass
