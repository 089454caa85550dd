"""OpenVINO: its precision, its memory, its order of equal values, and its silence."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import structsam_export
import structsam_runtime
from structsam_runtime import OnnxRuntimeRunner, OpenVinoRunner, UserError
from structsam_runtime.runners import TABLE, openvino
from structsam_runtime.runners.openvino import library, unreported


def save(path: Path, nodes: list[Any], inputs: Any, outputs: Any, *values: Any) -> Path:
    """An ONNX file; inputs and outputs are name, type and shape."""
    ends = ([helper.make_tensor_value_info(*end) for end in given] for given in (inputs, outputs))
    graph = helper.make_graph(nodes, "graph", *ends, list(values))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def product(path: Path, weight: NDArray[Any]) -> Path:
    """y = x weight, in the type of the weight, with float32 ends."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [[(name, TensorProto.FLOAT, ["n", side])] for name, side in zip("xy", weight.shape, strict=True)]
    return save(path, nodes, *ends, numpy_helper.from_array(weight, "w"))


def test_fp32_is_fp32(tmp_path: Path) -> None:
    """Where the CPU has bf16, OpenVINO rounds inputs of products to 8 bits unless it is told not to."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(64, 256)), rng.normal(size=(256, 256))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    with OpenVinoRunner(product(tmp_path / "product.onnx", weight), threads=1) as runner:
        error = np.abs(runner.infer({"x": x})["y"] - exact).max()
    assert error < 1e-4, "bf16 and TF32 are off by 1e-2 or more"


def test_the_types_of_the_file_are_the_precision(tmp_path: Path) -> None:
    """Also of a file in fp16, of which no part becomes bf16."""
    paths = [product(tmp_path / f"{kind}.onnx", np.ones((16, 16), kind)) for kind in ("float32", "float16")]
    for path in paths:
        with OpenVinoRunner(path, threads=1) as runner:
            model = runner._request.get_compiled_model()
            types = {
                str(node.get_rt_info()["runtimePrecision"].astype(str))
                for node in model.get_runtime_model().get_ops()
                if "runtimePrecision" in node.get_rt_info()
            }
            assert "bf16" not in types
            assert ("f16" in types) <= (path.stem == "float16")
            assert model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


def in_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest numbers with 8 bits of mantissa."""
    exponent = np.floor(np.log2(np.abs(x)))
    return np.rint(x / 2.0 ** (exponent - 7)).astype(np.float32) * 2.0 ** (exponent - 7).astype(np.float32)


@pytest.fixture
def in_half(tmp_path: Path) -> tuple[Path, NDArray[np.float32], NDArray[np.float32]]:
    """A product in bf16 with float32 ends; its weight, and an input."""
    rng = np.random.default_rng(0)
    x, weight = (in_bf16(rng.normal(size=shape).astype(np.float32)) for shape in ((8, 64), (64, 16)))
    path = product(tmp_path / "product.onnx", weight)
    model = onnx.load(path)
    model.graph.node[0].attribute[0].i = TensorProto.BFLOAT16
    half = (weight.view(np.uint32) >> 16).astype(np.uint16)  # exact: the lower half is zero
    raw = helper.make_tensor("w", TensorProto.BFLOAT16, weight.shape, half.tobytes(), raw=True)
    model.graph.initializer[0].CopyFrom(raw)
    onnx.save(model, path)
    return path, weight, x


def test_bf16_is_computed(in_half: tuple[Path, NDArray[np.float32], NDArray[np.float32]]) -> None:
    """Products of bf16 are exact in fp32, and so their sums: only the result is rounded."""
    path, weight, x = in_half
    with OpenVinoRunner(path, threads=1) as runner:
        made = runner.infer({"x": x})["y"]
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    np.testing.assert_allclose(made, exact, rtol=2**-8, atol=1e-3)


def test_onnx_runtime_on_the_cpu_has_no_products_of_bf16(
    in_half: tuple[Path, NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Which is why its row of the table lacks it: where this fails, the row is out of date."""
    assert "bf16" in TABLE["cpu"].lacks
    with pytest.raises(UserError, match=r"NOT_IMPLEMENTED : .*MatMul"):
        OnnxRuntimeRunner(in_half[0], threads=1).__enter__()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.data())
def test_ties_are_the_lower_index(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], data: Any
) -> None:
    """As in PyTorch and ONNX Runtime: the plans of merging hang on it."""
    k = data.draw(st.integers(1, len(values)))
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["", "top"], axis=-1, largest=1, sorted=1),
        helper.make_node("TopK", ["x", "k"], ["", "bottom"], axis=-1, largest=0, sorted=1),
        helper.make_node("ArgMax", ["x"], ["max"], axis=-1, keepdims=0),
        helper.make_node("ArgMin", ["x"], ["min"], axis=-1, keepdims=0),
    ]
    size = len(values)
    ends = [(name, TensorProto.INT64, [1, k]) for name in ("top", "bottom")]
    ends += [(name, TensorProto.INT64, [1]) for name in ("max", "min")]
    path = save(
        tmp_path_factory.mktemp("ties") / "ties.onnx",
        nodes,
        [("x", TensorProto.FLOAT, [1, size])],
        ends,
        numpy_helper.from_array(np.array([k]), "k"),
    )
    x = np.array([values], np.float32)
    with OpenVinoRunner(path, threads=1) as runner:
        made = runner.infer({"x": x})
    up, down = np.argsort(x[0], kind="stable"), np.argsort(-x[0], kind="stable")
    assert made["top"][0].tolist() == down[:k].tolist()
    assert made["bottom"][0].tolist() == up[:k].tolist()
    assert (made["max"].item(), made["min"].item()) == (x[0].argmax(), x[0].argmin())


def test_a_model_that_ran_many_shapes_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "SHAPES", 3)
    compiled = []
    compile_ = OpenVinoRunner._compile
    monkeypatch.setattr(OpenVinoRunner, "_compile", lambda self: compiled.append(1) or compile_(self))
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    with OpenVinoRunner(product(tmp_path / "product.onnx", weight), threads=1) as runner:
        for rows, times in [(1, 1), (2, 1), (3, 1), (2, 1), (1, 1), (4, 2), (3, 2), (4, 2), (5, 2), (6, 3)]:
            x = np.random.default_rng(rows).random((rows, 3), np.float32)
            np.testing.assert_allclose(runner.infer({"x": x})["y"], x @ weight, rtol=1e-6)
            assert len(compiled) == times


def test_a_compilation_that_failed_is_made_up_for_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of too little memory, for a model that ran many shapes."""
    monkeypatch.setattr(openvino, "SHAPES", 1)
    with OpenVinoRunner(product(tmp_path / "product.onnx", np.ones((2, 2), np.float32)), threads=1) as runner:
        runner.infer({"x": np.ones((1, 2), np.float32)})
        with monkeypatch.context() as patch:
            patch.setattr(OpenVinoRunner, "_model", lambda self: int("no memory"))
            for _ in range(2):
                with pytest.raises(UserError, match="OpenVINO cannot load"):
                    runner.infer({"x": np.ones((2, 2), np.float32)})
        assert runner.infer({"x": np.ones((2, 2), np.float32)})["y"].shape == (2, 2)


def test_an_output_of_which_the_file_tells_no_shape(tmp_path: Path) -> None:
    """OpenVINO finds it by itself."""
    path = product(tmp_path / "product.onnx", np.ones((2, 2), np.float32))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with OpenVinoRunner(path, threads=1) as runner:
        assert len(runner.outputs["y"].shape) == 2
        assert runner.infer({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, ValueError, TypeError])
def test_a_run_that_fails_is_one_line(error: type[Exception], tmp_path: Path) -> None:
    def fail(feeds: Any) -> None:
        raise error("of\nits own")

    with OpenVinoRunner(product(tmp_path / "product.onnx", np.ones((2, 2), np.float32)), threads=1) as runner:
        runner._request = SimpleNamespace(infer=fail)
        with pytest.raises(UserError) as told:
            runner.infer({"x": np.ones((1, 2), np.float32)})
    assert str(told.value) == f"OpenVINO cannot run {tmp_path / 'product.onnx'}: of its own"


def test_lengths_of_one_name_have_to_be_equal(tmp_path: Path) -> None:
    """OpenVINO itself computes something from shapes that do not match."""
    ends = [("a", TensorProto.FLOAT, ["n", 2]), ("b", TensorProto.FLOAT, ["n", 2])]
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    path = save(tmp_path / "sum.onnx", nodes, ends, [("y", TensorProto.FLOAT, ["n", 2])])
    with (
        OpenVinoRunner(path, threads=1) as runner,
        pytest.raises(UserError, match=r"input 'b' has shape \[3, 2\], expected \[n, 2\], n = 2"),
    ):
        runner.infer({"a": np.ones((2, 2), np.float32), "b": np.ones((3, 2), np.float32)})


def test_compiled_models_are_kept_on_request_and_told_apart_by_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, x = tmp_path / "cache", np.ones((1, 32), np.float32)
    for kept in (False, True):
        if kept:
            monkeypatch.setenv(openvino.CACHE, str(cache))
        for seed, loaded in ((0, False), (0, kept), (1, False)):  # another file of the same name and size
            weight = np.random.default_rng(seed).random((32, 32), np.float32)
            with OpenVinoRunner(product(tmp_path / "product.onnx", weight), threads=1) as runner:
                np.testing.assert_allclose(runner.infer({"x": x})["y"][0], weight.sum(0), rtol=1e-5)
                assert runner._request.get_compiled_model().get_property("LOADED_FROM_CACHE") == loaded
        assert cache.exists() == kept
        assert {path.name for path in tmp_path.iterdir()} == {"product.onnx", *(["cache"] if kept else [])}


IMPORT = """
import pathlib, sys
from structsam_runtime import OpenVinoRunner
with OpenVinoRunner(pathlib.Path(sys.argv[1]), threads=1):
    pass
print(sys.modules["openvino.tools.ovc"].telemetry.__module__, "openvino_telemetry" in sys.modules)
"""


def test_openvino_reports_nothing_of_its_users(export_folder: Path, tmp_path: Path) -> None:
    """By itself it sends an event when it is imported, and writes an id into the user's home."""
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(export_folder / "decoder.onnx")],
        env=known | {"HOME": str(tmp_path), "CI": "true"},  # with which it would not send, were it not hidden
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [None, "a module"])
def test_what_was_imported_before_is_found_again(before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    if before:
        monkeypatch.setitem(sys.modules, "openvino_telemetry", before)
    with unreported(), pytest.raises(ModuleNotFoundError):
        __import__("openvino_telemetry")
    assert sys.modules.get("openvino_telemetry") == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("no", name="openvino"), "openvino is not installed; "),
        (ImportError("libtbb.so: cannot open\nshared object"), "openvino cannot be imported: libtbb.so: "),
        (OSError("of the system"), "openvino cannot be imported: of the system; "),
    ],
)
def test_a_library_that_is_missing_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(openvino.importlib, "import_module", fail)
    with pytest.raises(UserError) as told:
        library()
    assert str(told.value).startswith(said)
    assert str(told.value).endswith('pip install "structsam[openvino]"')
    assert "\n" not in str(told.value)


def test_one_file_imports_openvino() -> None:
    """The one that hides what reports."""
    roots = (Path(structsam_runtime.__path__[0]), Path(structsam_export.__path__[0]))
    statement = re.compile(r"^\s*(import openvino|from openvino)|import_module\(.openvino", re.M)
    files = [file for root in roots for file in root.rglob("*.py") if statement.search(file.read_text())]
    assert [file.name for file in files] == ["openvino.py"]
