"""ONNX Runtime on a GPU: what a session is made with, where its nodes run, and what is refused."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from structsam_runtime import OnnxRuntimeRunner, UserError
from structsam_runtime.runners.onnxruntime import PROVIDERS, require
from structsam_runtime.runners.placement import Node

SESSION = onnxruntime.InferenceSession


class OnGpu:
    """A session of CUDA, as ONNX Runtime reports one: in truth on the CPU.

    Args:
        astray: operator and name of nodes that are on the CPU.
        log: what happens, in order.
        made: model, options and keywords of the session.
    """

    def __init__(self, astray: Collection[Node], log: list[str], *made: Any, **keywords: Any) -> None:
        self.astray, self.keywords, self.options = astray, keywords, made[1]
        log.append("session")
        self.session = SESSION(*made, **keywords | {"providers": ["CPUExecutionProvider"]})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Every node in a part of its own."""
        nodes = [
            node for part in self.session.get_provider_graph_assignment_info() for node in part.get_nodes()
        ]
        return [SimpleNamespace(ep_name=self._place(node), get_nodes=partial(list, [node])) for node in nodes]

    def _place(self, node: Any) -> str:
        return "CPUExecutionProvider" if (node.op_type, node.name) in self.astray else "CUDAExecutionProvider"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """ONNX Runtime with CUDA: `astray` are nodes on the CPU, `log` is what it was asked to do."""
    gpu = SimpleNamespace(astray=set(), log=[])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: gpu.log.append("preload"))
    make = lambda *made, **keywords: OnGpu(gpu.astray, gpu.log, *made, **keywords)  # noqa: E731
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return gpu


def test_cuda_is_loaded_first_and_computes_fp32_without_tf32_or_fallback(
    export_folder: Path, on_gpu: SimpleNamespace
) -> None:
    with OnnxRuntimeRunner(export_folder / "decoder.onnx", "cuda", threads=1) as runner:
        session = runner._session
        assert on_gpu.log == ["preload", "session"]
        assert session.keywords["providers"] == [("CUDAExecutionProvider", {"use_tf32": "0"})]
        assert session.keywords["enable_fallback"] == 0
        assert not session.session._enable_fallback
        assert session.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + weight, reshaped to as many rows as x has, twice, less as many."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["rows"], "gather"),
        helper.make_node("Add", ["rows", "rows"], ["twice"], "add rows"),
        helper.make_node("Sub", ["twice", "rows"], ["again"], "sub"),
        helper.make_node("Concat", ["again", "rest"], ["wanted"], "concat", axis=0),
        helper.make_node("Add", ["x", "weight"], ["sum"], "add"),
        helper.make_node("Reshape", ["sum", "wanted"], ["y"], "reshape"),
    ]
    graph = helper.make_graph(
        nodes,
        "sized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("rest", TensorProto.INT64, [1], [4]),
            helper.make_tensor("weight", TensorProto.FLOAT, [4], [1, 2, 3, 4]),
        ],
    )
    path = tmp_path_factory.mktemp("sized") / "sized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


OF_SHAPES = [("Gather", "gather"), ("Add", "add rows"), ("Sub", "sub"), ("Concat", "concat")]
COMPUTING = [("Add", "add"), ("Reshape", "reshape")]


def test_arithmetic_on_shapes_may_run_on_the_cpu(sized: Path, on_gpu: SimpleNamespace) -> None:
    on_gpu.astray |= set(OF_SHAPES)
    with OnnxRuntimeRunner(sized, "cuda", threads=1) as runner:
        x = np.ones((3, 4), np.float32)
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], x + np.arange(1, 5))


@pytest.mark.parametrize("node", COMPUTING)
def test_a_node_that_computes_on_the_cpu_is_refused_by_name(
    sized: Path, on_gpu: SimpleNamespace, node: Node
) -> None:
    on_gpu.astray |= {node, *OF_SHAPES}
    with pytest.raises(UserError) as error:
        OnnxRuntimeRunner(sized, "cuda", threads=1).__enter__()
    told = f"no GPU kernel for nodes of {sized} and would run them on the CPU: {' '.join(node)}; pip install"
    assert told in str(error.value)


def test_a_provider_is_asked_for_where_a_session_has_only_bytes(
    sized: Path, on_gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runners have that change a model in memory."""
    on_gpu.astray |= {COMPUTING[0]}
    monkeypatch.setattr(OnnxRuntimeRunner, "_model", lambda self: self.path.read_bytes())
    with pytest.raises(UserError, match="on the CPU: Add add; "):
        OnnxRuntimeRunner(sized, "cuda", threads=1).__enter__()


def test_refuses_a_provider_that_is_not_installed(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    message = r"provider 'cuda' is not in this ONNX Runtime, which offers cpu; .*\[cuda\]"
    with pytest.raises(UserError, match=message):
        OnnxRuntimeRunner(export_folder / "encoder.onnx", "cuda").__enter__()


@pytest.mark.parametrize("version", ["1.23.2", "1.26.0", "1.9.0"])
def test_an_onnx_runtime_without_kernels_for_the_exports_is_refused_for_cuda_alone(
    export_folder: Path, on_gpu: SimpleNamespace, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    told = rf"ONNX Runtime {version} runs some .* 'cuda' needs 1\.28 or newer, .*; pip install .*\[cuda\]"
    with pytest.raises(UserError, match=told):
        OnnxRuntimeRunner(export_folder / "encoder.onnx", "cuda").__enter__()
    assert on_gpu.log == []
    monkeypatch.undo()
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with OnnxRuntimeRunner(export_folder / "encoder.onnx", threads=1):
        pass


@pytest.mark.parametrize("version", ["1.28.0", "1.29.0.dev20261101", "1.100.0", "2.0.0"])
def test_a_newer_onnx_runtime_is_taken(on_gpu: Any, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert require("cuda") is onnxruntime


def test_a_provider_that_was_replaced_silently_is_refused_with_what_is_missing(
    export_folder: Path,
    on_gpu: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(OnGpu, "get_providers", lambda self: ["CPUExecutionProvider"])
    runner = OnnxRuntimeRunner(export_folder / "encoder.onnx", "cuda")
    start = "provider 'cuda' could not start and ONNX Runtime chose CPUExecutionProvider: "
    with pytest.raises(UserError, match=f"{start}there is no NVIDIA GPU, or .* too old; pip install "):
        runner.__enter__()

    def preload() -> None:
        print("Failed to load libcublas.so.13: cannot open shared object file")
        print("Failed to load libcudart.so.13: cannot open shared object file")
        print("Please follow the manual")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    missing = "Failed to load libcublas.so.13; Failed to load libcudart.so.13; "
    with pytest.raises(UserError, match=rf'{start}{missing}pip install --upgrade "structsam\[cuda\]"$'):
        runner.__enter__()
    assert capfd.readouterr() == ("", "")


FAILURES = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", [*FAILURES, RuntimeError, ValueError, MemoryError])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_whatever_onnx_runtime_raises_is_one_line(
    sized: Path,
    on_gpu: SimpleNamespace,
    kind: type[Exception],
    provider: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise kind("of\nits own")

    with OnnxRuntimeRunner(sized, provider, threads=1) as runner:
        runner._session = SimpleNamespace(run=fail)
        with pytest.raises(UserError) as error:
            runner.infer({"x": np.ones((1, 4), np.float32)})
    assert str(error.value).startswith(f"ONNX Runtime failed to run {sized} with '{provider}': of its own")
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(UserError, match=f"cannot load {sized} with '{provider}': of its own"):
        OnnxRuntimeRunner(sized, provider).__enter__()


def test_a_run_without_cudnn_says_what_to_install(sized: Path, on_gpu: SimpleNamespace) -> None:
    """ONNX Runtime starts without it, and fails at the first convolution."""

    def fail(*_: Any) -> None:
        raise state.NotImplemented("cuDNN is unavailable: dlopen failed for libcudnn.so")

    with OnnxRuntimeRunner(sized, "cuda", threads=1) as runner:
        runner._session = SimpleNamespace(run=fail)
        with pytest.raises(UserError, match=r"libcudnn\.so; pip install --upgrade \"structsam\[cuda\]\"$"):
            runner.infer({"x": np.ones((1, 4), np.float32)})
