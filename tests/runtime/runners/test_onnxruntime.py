"""The lifecycle of a runner, its checks, and ONNX Runtime behind it."""

import ctypes
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

import structsam_export
import structsam_runtime
from structsam_runtime import OnnxRuntimeRunner, UserError
from structsam_runtime.runners.base import Array, DeviceArray
from structsam_runtime.runners.onnxruntime import PROVIDERS, OrtArray, library


def _feeds(prompts: int = 2, points: int = 3) -> dict[str, Any]:
    return {
        "image_embedding": np.zeros((1, 256, 64, 64), np.float32),
        "point_coords": np.ones((prompts, points, 2), np.float32),
        "point_labels": np.ones((prompts, points), np.int32),
        "mask_input": np.zeros((prompts, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(prompts, np.float32),
    }


def _photo() -> Array:
    return np.random.default_rng(0).normal(size=(1, 3, 1024, 1024)).astype(np.float32)


def test_outputs_on_the_device_equal_those_on_the_cpu(export_folder: Path) -> None:
    with (
        OnnxRuntimeRunner(export_folder / "encoder.onnx", threads=1) as encoder,
        OnnxRuntimeRunner(export_folder / "decoder.onnx", threads=1) as decoder,
    ):
        expected = encoder.infer({"image": _photo()})["image_embedding"]
        kept = encoder.infer_on_device({"image": _photo()})["image_embedding"]
        assert isinstance(kept, OrtArray)
        assert (kept.dtype, kept.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(kept.numpy(), expected)

        encoder.infer_on_device({"image": 2 * _photo()})  # goes elsewhere
        np.testing.assert_array_equal(kept.numpy(), expected)

        masks = decoder.infer(_feeds() | {"image_embedding": expected})
        mixed = _feeds() | {"image_embedding": kept}
        for outputs in (decoder.infer(mixed), _read(decoder.infer_on_device(mixed))):
            assert outputs.keys() == masks.keys()
            for name in masks:
                np.testing.assert_array_equal(outputs[name], masks[name])


def _read(outputs: dict[str, DeviceArray]) -> dict[str, Array]:
    return {name: values.numpy() for name, values in outputs.items()}


@pytest.mark.parametrize("on_device", [False, True])
def test_a_device_array_of_the_runner_is_not_copied(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    """The predicted IoU holds the mean of the embedding: what is written to its memory must arrive."""
    with (
        OnnxRuntimeRunner(export_folder / "encoder.onnx", threads=1) as encoder,
        OnnxRuntimeRunner(export_folder / "decoder.onnx", threads=1) as decoder,
    ):
        kept = encoder.infer_on_device({"image": _photo()})["image_embedding"]
        assert isinstance(kept, OrtArray)
        seven = np.full(kept.shape, 7, np.float32)
        ctypes.memmove(kept.value.data_ptr(), seven.ctypes.data, seven.nbytes)
        monkeypatch.setattr(OrtArray, "numpy", lambda _: pytest.fail("copied"))
        feeds = _feeds() | {"image_embedding": kept}
        if on_device:
            found = np.asarray(decoder.infer_on_device(feeds)["iou_predictions"].value)  # type: ignore[attr-defined]
        else:
            found = decoder.infer(feeds)["iou_predictions"]
    np.testing.assert_allclose(found[0] - 7, (0.9, 0.5, 0.8, 0.7), atol=1e-5)


def test_refuses_a_file_that_is_missing_or_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*none\.onnx; expected an ONNX model"):
        OnnxRuntimeRunner(tmp_path / "none.onnx").__enter__()
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match=r"ONNX Runtime cannot load .*text\.onnx with 'cpu': ") as error:
        OnnxRuntimeRunner(tmp_path / "text.onnx").__enter__()
    assert "\n" not in str(error.value)


def test_refuses_unknown_arguments(tmp_path: Path) -> None:
    for name in ("npu", "tensorrt"):
        with pytest.raises(UserError, match=f"'{name}' is unknown, expected one of cpu, cuda"):
            OnnxRuntimeRunner(tmp_path / "x.onnx", name)
    with pytest.raises(UserError, match=r"'trt-ep' was removed: .* --runner tensorrt"):
        OnnxRuntimeRunner(tmp_path / "x.onnx", "trt-ep")
    for threads in (0, -1, 1025, 10**9):
        with pytest.raises(UserError, match=f"threads is {threads}, expected 1 to 1024"):
            OnnxRuntimeRunner(tmp_path / "x.onnx", threads=threads)


def test_refuses_types_that_numpy_lacks(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    model = helper.make_model(
        helper.make_graph([node], "graph", [info], [out]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"b\.onnx has x of type tensor\(bfloat16\), expected tensor"):
        OnnxRuntimeRunner(tmp_path / "b.onnx").__enter__()


@pytest.mark.parametrize(
    ("cores", "threads", "expected"), [(1, None, 1), (3, None, 3), (4, None, 0), (1, 4, 4)]
)
def test_threads_are_as_many_as_the_process_may_use(
    cores: int, threads: int | None, expected: int, export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    runner = OnnxRuntimeRunner(export_folder / "decoder.onnx", threads=threads)
    assert runner._options(onnxruntime).intra_op_num_threads == expected


def test_names_the_package_when_onnx_runtime_is_missing(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what import finds for a blocked module
    with pytest.raises(UserError, match=r'onnxruntime is not installed; pip install "structsam\[cpu\]"'):
        OnnxRuntimeRunner(export_folder / "encoder.onnx").__enter__()


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_an_onnx_runtime_that_is_not_whole_is_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two of its packages were installed, and one of them was removed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    again = r"; pip uninstall onnxruntime onnxruntime-gpu, then pip install "
    with pytest.raises(UserError, match=f"onnxruntime is installed in part{again}"):
        library()

    def fail(name: str) -> None:
        raise error("libstdc++.so.6: no such\nversion")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(UserError, match=f"cannot be imported: libstdc.* no such version{again}"):
        library()


@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_that_fails_is_one_line(
    tmp_path: Path, on_device: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of any length by its inputs, and even by its nodes."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "rows"], ["y"])],
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "half"])],
        [helper.make_tensor("rows", TensorProto.INT64, [2], [2, -1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "halves.onnx")
    with OnnxRuntimeRunner(tmp_path / "halves.onnx") as runner:
        infer = runner.infer_on_device if on_device else runner.infer
        assert infer({"x": np.zeros(4, np.float32)})["y"].shape == (2, 2)
        with pytest.raises(UserError, match=r"failed to run .*halves\.onnx with 'cpu': .*Reshape") as error:
            infer({"x": np.zeros(3, np.float32)})
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # where ONNX Runtime logs it again


def test_a_run_that_a_provider_fails_is_not_repeated_on_the_cpu(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        """A session whose runs fail, as those of CUDA do without cuDNN."""

        def __init__(self, session: Any) -> None:
            self.session, self.runs = session, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        def run(self, *_: Any) -> None:
            self.runs += 1
            raise state.EPFail("no cuDNN")

    with OnnxRuntimeRunner(export_folder / "decoder.onnx", threads=1) as runner:
        runner._session._sess = failing = Failing(runner._session._sess)
        with pytest.raises(UserError, match=r"decoder\.onnx with 'cpu': no cuDNN$"):
            runner.infer(_feeds())
    assert failing.runs == 1
    assert capsys.readouterr().out == ""  # where ONNX Runtime tells that it falls back


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(export_folder: Path) -> None:
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {PROVIDERS['cuda']}")
    path = export_folder / "decoder.onnx"
    feeds = _feeds() | {"image_embedding": np.random.default_rng(0).random((1, 256, 64, 64), np.float32)}
    with OnnxRuntimeRunner(path) as cpu, OnnxRuntimeRunner(path, "cuda") as gpu:
        expected, kept = cpu.infer(feeds), gpu.infer_on_device(feeds)
        for name, values in kept.items():
            assert isinstance(values, OrtArray)
            assert values.value.device_name() != "cpu"
            np.testing.assert_allclose(values.numpy(), expected[name], rtol=1e-4, atol=1e-4)


SESSION = """
import pathlib, sys
from structsam_runtime import OnnxRuntimeRunner
with OnnxRuntimeRunner(pathlib.Path(sys.argv[1]), threads=1):
    pass
"""


def test_onnx_runtime_keeps_no_account_of_its_users(export_folder: Path, tmp_path: Path) -> None:
    """By itself it writes a device id and a database of events as soon as a session is made."""
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run(
        [sys.executable, "-c", SESSION, str(export_folder / "decoder.onnx")],
        env=known | {"HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_user_who_wants_to_report_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    library()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_one_file_imports_onnx_runtime() -> None:
    """The one that asks for no reports before."""
    roots = (Path(structsam_runtime.__path__[0]), Path(structsam_export.__path__[0]))
    statement = re.compile(r"^\s*(import onnxruntime|from onnxruntime)|import_module\(.onnxruntime", re.M)
    files = [file for root in roots for file in root.rglob("*.py") if statement.search(file.read_text())]
    assert [file.name for file in files] == ["onnxruntime.py"]
