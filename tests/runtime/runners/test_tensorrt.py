"""The runner of TensorRT engines: on stand-ins for the library and CUDA, and on the real ones."""

import gc
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime import OnnxRuntimeRunner, TensorRtRunner, UserError
from structsam_runtime.build import TENSORRT, TENSORRT_RTX, EngineBuilder
from structsam_runtime.runners import cuda as ours
from structsam_runtime.runners.base import Memory, TensorSpec
from structsam_runtime.runners.cuda import CudaArray
from structsam_runtime.runners.tensorrt import EngineError, _named, bindings

BUFFERS = 5  # inputs and outputs of the stand-in
NO_GPU = "cudaErrorNoDevice"

EngineFile = Callable[..., Path]


def feeds(batch: int, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "image": draw.normal(size=(batch, 3, 4)).astype(np.float32),
        "bias": draw.normal(size=(3, 4)).astype(np.float32),
        "label": draw.integers(0, 9, batch, np.int32),
    }


def check(outputs: dict[str, Any], given: dict[str, Any]) -> None:
    """That outputs are what the engine computes from these inputs."""
    assert outputs.keys() == {"double", "marked"}
    np.testing.assert_array_equal(outputs["double"], 2 * given["image"] + given["bias"])
    np.testing.assert_array_equal(outputs["marked"], given["label"] + 1)


def test_inputs_and_outputs_are_those_of_the_engine(library: Any, engine_file: EngineFile) -> None:
    with TensorRtRunner(engine_file(), "tensorrt") as runner:
        assert {name: spec.shape for name, spec in runner.inputs.items()} == {
            "image": ("image.0", 3, 4),
            "bias": (3, 4),
            "label": ("label.0",),
        }
        assert {name: spec.dtype for name, spec in runner.outputs.items()} == {
            "double": np.float32,
            "marked": np.int32,
        }


def test_the_longest_first_axis_is_that_of_the_profile(library: Any, engine_file: EngineFile) -> None:
    with TensorRtRunner(engine_file(), "tensorrt") as runner:
        assert [runner.longest(name) for name in ("image", "label", "bias")] == [4, 4, 3]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_any_batch_gives_what_the_engine_computes(
    library: Any, engine_file: EngineFile, name: str, graph: bool
) -> None:
    with TensorRtRunner(engine_file(), name, cuda_graph=graph) as runner:
        for seed, batch in enumerate((4, 4, 1, 3, 3, 3, 3, 1, 2, 2, 2)):
            given = feeds(batch, seed)
            check(runner.infer(given), given)
            left = runner.infer_on_device(given)
            check({name: values.numpy() for name, values in left.items()}, given)
            assert all(values.shape[0] == batch for values in left.values())


def test_free_memory_is_reported_or_the_reason_why_not(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    answers = [(cuda.cudaError_t.cudaSuccess, 5, 9), (cuda.cudaError_t.cudaErrorNoDevice, None, None)]
    monkeypatch.setattr(ours, "_cudart", lambda: Answering(cuda, answers))
    assert ours.free_memory() == 5
    with pytest.raises(UserError, match="this needs a machine with an NVIDIA GPU"):
        ours.free_memory()


class Answering:
    """The stand-in, with answers about memory in turn."""

    def __init__(self, cuda: Any, answers: list[tuple[Any, Any, Any]]) -> None:
        self.cudaError_t, self.cudaGetErrorString = cuda.cudaError_t, cuda.cudaGetErrorString
        self.cudaMemGetInfo = lambda: answers.pop(0)


def test_plugins_are_loaded_once_and_before_the_engine(
    library: Any, engine_file: EngineFile, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins.so"
    plugins.write_text("plugins")
    for _ in range(2):
        with TensorRtRunner(engine_file(), "tensorrt", plugins=plugins) as runner:
            given = feeds(1)
            check(runner.infer(given), given)
    assert library.plugins == [str(plugins)]


def test_plugins_that_do_not_load_are_an_error(library: Any, engine_file: EngineFile, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins.so"
    with (
        pytest.raises(UserError, match=r"no file .*plugins.so; expected a library of plugins"),
        TensorRtRunner(engine_file(), "tensorrt", plugins=plugins),
    ):
        pass
    plugins.write_text("of another machine")
    with (
        pytest.raises(UserError, match=r"TensorRT 10.3.0 cannot load .*plugins.so; build it on this machine"),
        TensorRtRunner(engine_file(), "tensorrt", plugins=plugins),
    ):
        pass


def test_inputs_may_have_any_layout(library: Any, engine_file: EngineFile) -> None:
    given = feeds(2)
    given["image"] = np.asfortranarray(given["image"])
    given["bias"] = given["bias"][::-1]
    with TensorRtRunner(engine_file(), "tensorrt") as runner:
        check(runner.infer(given), given)


def test_buffers_are_allocated_once_and_all_freed(library: Any, cuda: Any, engine_file: EngineFile) -> None:
    runner = TensorRtRunner(engine_file(), "tensorrt", cuda_graph=True)
    for opened in (1, 2):
        with runner:
            for batch in (1, 4, 4, 4, 2):
                runner.infer(feeds(batch))
            assert len(cuda.memory) == BUFFERS
            assert cuda.calls.count("cudaMalloc") == opened * BUFFERS
        assert (cuda.memory, cuda.streams, cuda.graphs) == ({}, {}, {})
        with pytest.raises(UserError, match="is not open; use the runner inside a `with` block"):
            runner.infer(feeds(1))


@pytest.mark.parametrize(
    ("function", "call"),
    [("cudaStreamCreate", 1), *[("cudaMalloc", which) for which in range(1, BUFFERS + 1)]],
)
def test_memory_is_freed_if_opening_fails(
    library: Any, cuda: Any, engine_file: EngineFile, function: str, call: int
) -> None:
    cuda.failures[function] = (call, cuda.cudaError_t.cudaErrorMemoryAllocation)
    runner = TensorRtRunner(engine_file(), "tensorrt")
    with pytest.raises(
        UserError, match=f"CUDA failed in {function}: what CUDA says of 2; end other programs"
    ):
        runner.__enter__()
    assert (cuda.memory, cuda.streams) == ({}, {})
    with runner:  # the next attempt succeeds
        check(runner.infer(feeds(1)), feeds(1))


def test_a_shape_outside_the_profile_is_one_line(library: Any, cuda: Any, engine_file: EngineFile) -> None:
    with TensorRtRunner(engine_file(), "tensorrt") as runner:
        for infer in (runner.infer, runner.infer_on_device):
            with pytest.raises(UserError) as error:
                infer(feeds(5))
            told = "input 'image' has shape [5, 3, 4], the engine was built for [1, 3, 4] to [4, 3, 4]"
            assert str(error.value).endswith(told)
        with pytest.raises(UserError, match=r"'label' has shape \[0\], .* for \[1\] to \[4\]"):
            runner.infer(feeds(1) | {"label": np.zeros(0, np.int32)})
        with pytest.raises(UserError, match=r"'bias' has shape \[4, 3\], expected \[3, 4\]"):
            runner.infer(feeds(1) | {"bias": np.zeros((4, 3), np.float32)})
        with pytest.raises(UserError, match="'label' is int64, expected int32"):
            runner.infer(feeds(1) | {"label": np.zeros(1, np.int64)})
        assert library.engine.context.launches == 0


PICTURES = TensorSpec(np.dtype(np.float32), ("batch", 3, 4))
CONTRACT = {"image": PICTURES, "label": TensorSpec(np.dtype(np.int32), ("batch",))}
ONE = {name: replace(spec, shape=(1, *spec.shape[1:])) for name, spec in CONTRACT.items()}


@pytest.mark.parametrize("contract", [CONTRACT, ONE])
def test_shapes_that_do_not_match_the_contract_never_reach_the_library(
    library: Any, engine_file: EngineFile, contract: dict[str, TensorSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 10.3 may end the process of them."""
    with TensorRtRunner(engine_file(), "tensorrt", contract=contract) as runner:
        assert runner.inputs["image"].shape == ("batch", 3, 4)
        assert runner.inputs["bias"].shape == (3, 4)
        with monkeypatch.context() as barred:
            barred.setattr(library.engine.context, "set_input_shape", lambda *_: pytest.fail("reached"))
            with pytest.raises(UserError, match=r"'label' has shape \[3\], expected \[batch\], batch = 2"):
                runner.infer(feeds(2) | {"label": np.zeros(3, np.int32)})
        for batch in (1, 3):
            check(runner.infer(feeds(batch)), feeds(batch))


@given(
    st.lists(st.sampled_from([1, 5, "image.0", "image.1", "image.2"]), max_size=3),
    st.lists(st.sampled_from([1, 5, "prompts", "points"]), max_size=3),
)
def test_a_contract_names_dynamic_axes_and_changes_nothing_else(
    found: list[int | str], said: list[int | str]
) -> None:
    named = _named(*(TensorSpec(np.dtype(np.float32), tuple(shape)) for shape in (found, said)))
    assert len(named.shape) == len(found)
    for place, (before, after) in enumerate(zip(found, named.shape, strict=True)):
        assert isinstance(before, int) == isinstance(after, int)
        if isinstance(before, int) or place >= len(said):
            assert before == after
        elif isinstance(said[place], str):
            assert after == said[place]


def test_shapes_that_do_not_match_are_one_line(library: Any, engine_file: EngineFile) -> None:
    with TensorRtRunner(engine_file(), "tensorrt", cuda_graph=True) as runner:
        for _ in range(2):  # a refusal is not remembered as the shape
            with pytest.raises(UserError, match=r"do not match: image \[2, 3, 4\].*named batch must be"):
                runner.infer(feeds(2) | {"label": np.zeros(3, np.int32)})
        for seed in range(4):
            check(runner.infer(feeds(2, seed)), feeds(2, seed))


@pytest.mark.parametrize("graph", [False, True])
def test_outputs_on_the_device_are_not_overwritten(
    library: Any, cuda: Any, engine_file: EngineFile, graph: bool
) -> None:
    with TensorRtRunner(engine_file(), "tensorrt", cuda_graph=graph) as runner:
        given = [feeds(2, seed) for seed in range(4)]
        left = [runner.infer_on_device(one) for one in given]
        runner.infer(feeds(4))
        for one, outputs in zip(given, left, strict=True):
            check({name: values.numpy() for name, values in outputs.items()}, one)
        assert len(cuda.memory) == BUFFERS + 8
        del outputs
        left.pop()
        gc.collect()
        assert len(cuda.memory) == BUFFERS + 6
    assert cuda.memory == {}
    with pytest.raises(UserError, match="the runner of this array is closed"):
        left[0]["double"].numpy()


@pytest.mark.parametrize("graph", [False, True])
def test_inputs_on_the_device_are_not_copied_to_the_cpu(
    library: Any, cuda: Any, engine_file: EngineFile, monkeypatch: pytest.MonkeyPatch, graph: bool
) -> None:
    with (
        TensorRtRunner(engine_file(), "tensorrt") as first,
        TensorRtRunner(engine_file(), "tensorrt", cuda_graph=graph) as second,
    ):
        given = feeds(3)
        left = first.infer_on_device(given)["double"]
        assert isinstance(left, CudaArray)
        monkeypatch.setattr(CudaArray, "numpy", lambda _: pytest.fail("copied"))
        before = cuda.calls.count("cudaMemcpyAsync")
        outputs = second.infer({**given, "image": left})
        copies = cuda.calls.count("cudaMemcpyAsync") - before
        assert copies == 4 + graph  # two inputs and two outputs; a graph reads its own buffer
        assert (library.engine.context.addresses["image"] == left.pointer) is not graph
    np.testing.assert_array_equal(outputs["double"], 2 * (2 * given["image"] + given["bias"]) + given["bias"])


def test_a_graph_is_captured_in_the_second_run_and_replayed_from_then_on(
    library: Any, cuda: Any, engine_file: EngineFile
) -> None:
    def counts() -> tuple[int, int, int]:
        launches: int = library.engine.context.launches
        return launches, cuda.calls.count("cudaStreamBeginCapture"), cuda.calls.count("cudaGraphLaunch")

    with TensorRtRunner(engine_file(), "tensorrt", cuda_graph=True) as runner:
        seen = []
        for seed in range(4):
            check(runner.infer(feeds(2, seed)), feeds(2, seed))
            seen.append(counts())
        assert seen == [(1, 0, 0), (3, 1, 0), (3, 1, 1), (3, 1, 2)]
        for seed in range(3):
            check(runner.infer(feeds(1, seed)), feeds(1, seed))
        assert counts() == (6, 2, 3)
        assert len(cuda.graphs) == 1  # the library keeps the state of one shape
    assert cuda.graphs == {}


def test_tensorrt_rtx_captures_by_itself(library: Any, cuda: Any, engine_file: EngineFile) -> None:
    with TensorRtRunner(engine_file(), "tensorrt-rtx", cuda_graph=True) as runner:
        for seed in range(4):
            check(runner.infer(feeds(2, seed)), feeds(2, seed))
        assert library.engine.context.config.cuda_graph_strategy == "whole"
    assert not any("Graph" in call or "Capture" in call for call in cuda.calls)


def test_memory_of_an_open_engine_is_reported(library: Any, engine_file: EngineFile) -> None:
    path = engine_file()
    images, labels, bias = 4 * 3 * 4 * 4, 4 * 4, 3 * 4 * 4
    with TensorRtRunner(path, "tensorrt") as runner:
        assert runner.memory() == Memory(path.stat().st_size, 1000 + 2 * images + 2 * labels + bias)


# Mistakes


def refused(runner: TensorRtRunner) -> str:
    """What a person reads who opens a runner."""
    with pytest.raises(UserError) as error:
        runner.__enter__()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_errors_before_loading_are_one_line(
    library: Any, cuda: Any, engine_file: EngineFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="library 'trt' is unknown, expected one of tensorrt, tensorrt-rtx"):
        TensorRtRunner(engine_file(), "trt")
    runner = TensorRtRunner(tmp_path / "none.engine", "tensorrt")
    assert "none.engine; expected an engine of tensorrt" in refused(runner)
    runner = TensorRtRunner(engine_file(), "tensorrt-rtx")
    for name, remedy in ((NO_GPU, "an NVIDIA GPU"), ("cudaErrorInsufficientDriver", '"cuda-python<13"')):
        cuda.failures["cudaGetDeviceProperties"] = (
            cuda.calls.count("cudaGetDeviceProperties") + 1,
            cuda.cudaError_t[name],
        )
        assert remedy in refused(runner)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)  # what import finds for a blocked module
    told = refused(runner)
    assert told.startswith("cuda-python cannot be imported: import of cuda.bindings.runtime halted; ")
    assert told.endswith('pip install "structsam[tensorrt]" for TensorRT, "structsam[rtx]" for TensorRT-RTX')
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert "cannot be imported: import of tensorrt_rtx halted; None in sys.modules; pip" in refused(runner)
    assert library.engine is None


def test_an_engine_that_does_not_load_is_one_line(library: Any, cuda: Any, engine_file: EngineFile) -> None:
    path = engine_file("9.0.0")
    told = refused(TensorRtRunner(path, "tensorrt"))
    assert f"tensorrt 10.3.0 cannot load {path}; it may be truncated, of another version" in told
    assert told.endswith("build it again: the engine is of version 9.0.0")
    path.write_bytes(path.read_bytes()[:-5])
    assert refused(TensorRtRunner(path, "tensorrt")).endswith("the engine ends too early")
    told = refused(TensorRtRunner(engine_file(broken="context"), "tensorrt"))
    assert "has not enough GPU memory to run" in told
    assert (cuda.memory, cuda.streams) == ({}, {})


@pytest.mark.parametrize("broken", ["run", "capture"])
def test_a_failed_run_reports_the_message_of_the_library(
    library: Any, cuda: Any, engine_file: EngineFile, broken: str
) -> None:
    with TensorRtRunner(engine_file(broken=broken), "tensorrt", cuda_graph=True) as runner:
        if broken == "capture":
            check(runner.infer(feeds(1)), feeds(1))
        with pytest.raises(EngineError, match=r"failed to run .*\.engine: a kernel failed$"):
            runner.infer(feeds(1))
        assert cuda.captured is None
        ours._call("cudaStreamSynchronize", runner._stream.handle)
    assert (cuda.memory, cuda.graphs) == ({}, {})


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_library_that_cannot_be_imported_says_why(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error("libcudart.so.12: cannot open\nshared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"cannot be imported: libcudart\.so\.12: cannot open shared"):
        bindings("tensorrt")


@pytest.mark.parametrize("ask", [ours.gpu, ours.free_memory, ours.total_memory, ours.newest])
def test_cuda_python_without_a_driver_is_one_line(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]
) -> None:
    """Version 12.8 raises where others return an error."""

    def fail(*_: Any) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    for name in ("cudaGetDeviceProperties", "cudaMemGetInfo", "cudaDriverGetVersion"):
        monkeypatch.setattr(cuda, name, fail, raising=False)
    with pytest.raises(UserError, match=r"Failed to dlopen libcuda\.so\.1; this needs a machine with"):
        ask()


@pytest.mark.parametrize(
    "function", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMalloc", "cudaGraphLaunch"]
)
def test_a_run_that_cuda_fails_is_one_line_that_names_the_engine(
    library: Any, cuda: Any, engine_file: EngineFile, function: str
) -> None:
    """A GPU that failed answers nothing more: what closes the runner fails too, and hides no error."""
    path = engine_file()

    def fail() -> None:
        with TensorRtRunner(path, "tensorrt", cuda_graph=True) as runner:
            cuda.failures[function] = (
                1 + cuda.calls.count(function),
                cuda.cudaError_t.cudaErrorIllegalAddress,
            )
            cuda.fatal = True
            for _ in range(3):  # the graph is launched in the third
                runner.infer_on_device(feeds(1))

    with pytest.raises(EngineError) as error:
        fail()
    told = f"tensorrt failed to run {path}: CUDA failed in {function}: what CUDA says of 700"
    assert str(error.value) == told
    assert isinstance(error.value, UserError)


# The real library


PROFILE = {
    "point_coords": ((1, 1, 2), (1, 2, 2), (64, 16, 2)),
    "point_labels": ((1, 1), (1, 2), (64, 16)),
    "mask_input": ((1, 1, 256, 256), (1, 1, 256, 256), (64, 1, 256, 256)),
    "has_mask_input": ((1,), (1,), (64,)),
}


def test_the_stand_ins_offer_nothing_that_the_originals_lack(stand_ins: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    cudart = pytest.importorskip("cuda.bindings.runtime")

    def offered(stand_in: type) -> set[str]:
        return {name for name in vars(stand_in) if not name.startswith("_")}

    assert {name for name in offered(stand_ins.Cuda) if name.startswith("cuda")} <= set(dir(cudart))
    assert offered(stand_ins.Engine) - {"dtypes"} <= set(dir(trt.ICudaEngine))
    assert offered(stand_ins.Context) - {"view"} <= set(dir(trt.IExecutionContext))
    assert offered(stand_ins.Library) - {"load", "load_library"} <= set(dir(trt))
    assert {"get_creator", "load_library"} <= set(dir(trt.IPluginRegistry))


@pytest.fixture(scope="module")
def decoder(export_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the fake decoder, which TensorRT-RTX builds without a GPU."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path_factory.mktemp("engine") / "decoder.engine"
    EngineBuilder(TENSORRT_RTX).build(export_folder / "decoder.onnx", path, PROFILE)
    return path


def has_gpu() -> bool:
    try:
        ours.gpu()
    except UserError:
        return False
    return True


def test_without_a_gpu_a_real_engine_is_one_line(decoder: Path) -> None:
    if has_gpu():
        pytest.skip("there is a GPU here")
    told = refused(TensorRtRunner(decoder, "tensorrt-rtx"))
    assert told.startswith("CUDA failed in cudaGetDeviceProperties: ")
    assert "this needs an NVIDIA GPU" in told


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_real_engine_computes_what_onnx_runtime_does(
    export_folder: Path, decoder: Path, graph: bool
) -> None:
    if not has_gpu():
        pytest.skip("no GPU: the engine was built, but cannot run here")
    if ours.gpu().capability not in EngineBuilder(TENSORRT_RTX).hardware.capabilities:
        pytest.skip(f"TensorRT-RTX does not support compute capability {ours.gpu().capability}")
    compare(export_folder, TensorRtRunner(decoder, "tensorrt-rtx", graph))


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_an_engine_of_tensorrt_computes_what_onnx_runtime_does(
    export_folder: Path, tmp_path: Path, graph: bool
) -> None:
    pytest.importorskip("tensorrt")
    if not has_gpu():
        pytest.skip("no GPU: TensorRT cannot build here")
    path = tmp_path / "decoder.engine"
    EngineBuilder(TENSORRT).build(export_folder / "decoder.onnx", path, PROFILE)
    compare(export_folder, TensorRtRunner(path, "tensorrt", graph))


def compare(export_folder: Path, engine: TensorRtRunner) -> None:
    """Several numbers of prompts, some in turn, so that graphs are captured, replayed and dropped."""
    draw = np.random.default_rng(0)
    with engine, OnnxRuntimeRunner(export_folder / "decoder.onnx") as reference:
        for prompts, points in ((1, 2), (1, 2), (1, 2), (64, 16), (3, 1), (3, 1), (3, 1), (1, 2)):
            given = {
                "image_embedding": draw.normal(size=(1, 256, 64, 64)).astype(np.float32),
                "point_coords": draw.uniform(0, 1024, (prompts, points, 2)).astype(np.float32),
                "point_labels": np.ones((prompts, points), np.int32),
                "mask_input": draw.normal(size=(prompts, 1, 256, 256)).astype(np.float32),
                "has_mask_input": np.ones(prompts, np.float32),
            }
            expected, left = reference.infer(given), engine.infer_on_device(given)
            for name, values in engine.infer(given).items():
                np.testing.assert_array_equal(left[name].numpy(), values)
                np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-2)  # TF32
