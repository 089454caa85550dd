"""What is read from ONNX files without ONNX: the same as ONNX reads."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from structsam_runtime.runners.onnxfile import OnnxFile

AXES = st.lists(st.one_of(st.none(), st.integers(0, 2**40), st.sampled_from(["n", "batch", "ä"])), max_size=5)
NAMES = st.text("abcä.", min_size=1, max_size=200)


@given(
    st.dictionaries(NAMES, AXES, min_size=1, max_size=4),
    st.dictionaries(NAMES, AXES, min_size=1, max_size=4),
    st.dictionaries(NAMES, NAMES, max_size=3),
)
def test_shapes_and_metadata_are_those_of_onnx(
    tmp_path_factory: pytest.TempPathFactory, inputs: Any, outputs: Any, metadata: dict[str, str]
) -> None:
    ends = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in given.items()]
        for given in (inputs, outputs)
    )
    model = helper.make_model(helper.make_graph([], "graph", *ends))
    helper.set_model_props(model, metadata)
    path = Path(tmp_path_factory.mktemp("file") / "any.onnx")
    onnx.save(model, path)

    def named(given: Any) -> dict[str, tuple[int | str, ...]]:
        return {
            name: tuple(f"{name}.{place}" if axis is None else axis for place, axis in enumerate(axes))
            for name, axes in given.items()
        }

    told = OnnxFile.read(path)
    assert (told.inputs, told.outputs, told.metadata) == (named(inputs), named(outputs), metadata)
