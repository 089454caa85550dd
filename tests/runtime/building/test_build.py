"""From ONNX to an engine: settings, errors, interrupts, on a stand-in for the libraries and on a real one."""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from structsam_runtime import UserError
from structsam_runtime.build import TENSORRT, TENSORRT_RTX, BuildError, EngineBuilder, Hardware, Profile
from structsam_runtime.runners import cuda
from structsam_runtime.runners.tensorrt import logger

PROFILE: Profile = {"point_coords": ((1, 1, 2), (1, 2, 2), (64, 16, 2))}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"a graph")
    return path


def built(builder: EngineBuilder, graph: Path, profile: Profile = PROFILE) -> dict[str, Any]:
    """How an engine says that it was built."""
    builder.build(graph, graph.with_suffix(".engine"), profile)
    said: dict[str, Any] = json.loads(graph.with_suffix(".engine").read_bytes())
    return said


def refused(*arguments: Any) -> str:
    """What a person reads of a builder that cannot be."""
    with pytest.raises(UserError) as error:
        EngineBuilder(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [TENSORRT, TENSORRT_RTX])
def test_precision_is_the_graphs_and_tf32_is_off(library: Any, graph: Path, name: str) -> None:
    said = built(EngineBuilder(name), graph)
    assert said["strongly typed"]
    assert not said["tf32"]
    assert said["bytes"] == len(b"a graph")
    assert said["profiles"] == [{"point_coords": [[1, 1, 2], [1, 2, 2], [64, 16, 2]]}]
    assert said["workspace"] is None, "all the memory there is"
    assert said["capabilities"] == ([] if name == TENSORRT else [80, 86, 89, 120])


def test_tf32_is_on_in_a_real_library_and_off_in_its_configurations() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    made = trt.Builder(logger(trt))
    assert made.create_builder_config().get_flag(trt.BuilderFlag.TF32), "or clearing it is of no use"
    config = EngineBuilder(TENSORRT_RTX, workspace=3)._config(made, {})
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 3 * 2**20


def test_static_graphs_have_no_profile(library: Any, graph: Path) -> None:
    assert built(EngineBuilder(TENSORRT, workspace=512), graph, {}) == {
        "graph": "encoder.onnx",
        "bytes": 7,
        "strongly typed": True,
        "tf32": False,
        "profiles": [],
        "workspace": 512 * 2**20,
        "capabilities": [],
    }


@pytest.mark.parametrize("precision", ["fp8", "fp8-fp16"])
def test_floats_of_8_bits_are_built_for_ada_and_newer(library: Any, graph: Path, precision: str) -> None:
    """TensorRT-RTX builds none for several GPUs of which one lacks them."""
    builder = EngineBuilder(TENSORRT_RTX, precision=precision)
    assert built(builder, graph)["capabilities"] == [89, 120]
    assert builder.hardware == Hardware(None, ("8.9", "12.0"))
    assert built(EngineBuilder(TENSORRT, precision=precision), graph)["capabilities"] == []


def test_tensorrt_builds_for_the_gpu_that_is_here(library: Any) -> None:
    builder = EngineBuilder(TENSORRT)
    assert builder.hardware == Hardware("NVIDIA Test", ("9.0",))
    assert EngineBuilder(TENSORRT_RTX).hardware == Hardware(None, ("8.0", "8.6", "8.9", "12.0"))
    builder.require("10.3")
    with pytest.raises(UserError, match=r"10\.14, installed is 10\.3\.0; export in another precision$"):
        EngineBuilder(TENSORRT, precision="bf16").require("10.14")
    with pytest.raises(
        UserError, match=r"needs TensorRT 10\.14, installed is 10\.3\.0; export with --target tensorrt10"
    ):
        builder.require("10.14")
    EngineBuilder(TENSORRT_RTX).require("10.14")  # its versions are its own


def test_a_missing_gpu_is_told_with_the_library_that_needs_none(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise UserError("no GPU here")

    monkeypatch.setattr(cuda, "gpu", none)
    assert refused(TENSORRT) == (
        "tensorrt builds on the GPU that runs the engine, with version 10.3.0 there, or build with --engine "
        "tensorrt-rtx: no GPU here"
    )
    EngineBuilder(TENSORRT_RTX)


@pytest.mark.parametrize("name", [TENSORRT, TENSORRT_RTX])
def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.import_module

    def absent(module: str) -> object:
        if module.startswith("tensorrt"):
            raise ModuleNotFoundError(module)
        return real(module)

    monkeypatch.setattr(importlib, "import_module", absent)
    told = refused(name)
    assert told.startswith(
        f"{name} needs the Python package {name.replace('-', '_')}, which cannot be imported"
    )
    assert 'pip install "structsam[' in told


def test_what_a_library_does_not_take_is_refused(library: Any, tmp_path: Path) -> None:
    assert refused("openvino") == "--engine openvino is unknown; expected tensorrt or tensorrt-rtx"
    told = refused(TENSORRT_RTX, tmp_path / "plugins.so")
    assert told.startswith("--plugins needs --engine tensorrt: tensorrt-rtx supports no plugins; ")
    told = refused(TENSORRT_RTX, None, None, tmp_path / "times")
    assert told.startswith("--timing-cache needs --engine tensorrt: tensorrt-rtx times no kernels ")
    assert "there is no folder" in refused(TENSORRT, None, None, tmp_path / "none" / "times")


def test_a_library_that_does_not_start_is_one_line(library: Any, graph: Path) -> None:
    library.does_not_start = True
    with pytest.raises(
        UserError, match=r"^tensorrt 10\.3\.0 does not start here; .*: CUDA init.* error: 35$"
    ):
        built(EngineBuilder(TENSORRT), graph)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"no file .*; expected a library of plugins"),
        ("of another machine", r"TensorRT 10\.3\.0 cannot load .*; build it on this machine"),
        ("other plugins", r"has no StructsamScore; expected the library that plugins/README\.md builds"),
    ],
)
def test_a_wrong_library_of_plugins_is_one_line(
    library: Any, tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "plugins.so"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=told):
        EngineBuilder(TENSORRT, path)


def test_the_parsers_errors_name_the_nodes(library: Any, graph: Path) -> None:
    library.parser_errors["encoder.onnx"] = [
        ("/blocks.0/TopK", "TopK", "UNSUPPORTED_NODE", "K\nis large"),
        ("", "Det", "INVALID_NODE", "false"),
        ("", "", "MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model."),
    ]
    with pytest.raises(BuildError) as error:
        built(EngineBuilder(TENSORRT), graph)
    assert str(error.value).split("; ") == [
        "tensorrt cannot parse encoder.onnx: node /blocks.0/TopK (TopK): UNSUPPORTED_NODE: K\nis large",
        "node 7 (Det): INVALID_NODE: false",
        "MODEL_DESERIALIZE_FAILED: Failed to parse the ONNX model.",
    ]
    assert not graph.with_suffix(".engine").exists()


@pytest.mark.parametrize(
    ("said", "workspace", "told"),
    [
        ("no kernel for node 3", 10, "no kernel for node 3"),
        ("OutOfMemory (2 GB)", None, "OutOfMemory (2 GB); end other programs on the GPU, or give a smaller "),
        (
            "insufficient workspace",
            10,
            "insufficient workspace; give more --workspace than 10 MiB, end other",
        ),
        ("", None, "it gives no reason"),
    ],
)
def test_a_failed_build_says_why_and_what_to_do_about_memory(
    library: Any, graph: Path, said: str, workspace: int | None, told: str
) -> None:
    library.builder_errors["encoder.onnx"] = said
    with pytest.raises(BuildError) as error:
        built(EngineBuilder(TENSORRT, workspace=workspace), graph)
    assert str(error.value).startswith(f"tensorrt cannot build encoder.onnx: {told}")
    assert not graph.with_suffix(".engine").exists()


def test_memory_that_ends_is_a_failed_build(library: Any, graph: Path) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    library.during = full
    with pytest.raises(BuildError, match="tensorrt has not enough memory"):
        built(EngineBuilder(TENSORRT), graph)


def test_times_of_kernels_are_kept_for_later_builds(library: Any, graph: Path, tmp_path: Path) -> None:
    times = tmp_path / "times"
    for count in (1, 2):
        built(EngineBuilder(TENSORRT, timing_cache=times), graph)
        assert times.read_bytes() == b"times of this GPU:" + count * b"encoder.onnx"
    library.builder_errors["encoder.onnx"] = "no kernel"
    with pytest.raises(BuildError):
        built(EngineBuilder(TENSORRT, timing_cache=times), graph)
    assert times.read_bytes() == b"times of this GPU:" + 2 * b"encoder.onnx"
    assert {path.name for path in tmp_path.iterdir()} == {"times", "encoder.onnx", "encoder.engine"}


@pytest.mark.parametrize("content", [b"garbage", b"times of that GPU:"])
def test_times_of_another_gpu_are_refused_and_stay(
    library: Any, graph: Path, tmp_path: Path, content: bytes
) -> None:
    times = tmp_path / "times"
    times.write_bytes(content)
    with pytest.raises(
        UserError, match=r"times is not of this GPU and tensorrt 10\.3\.0; choose another file"
    ):
        built(EngineBuilder(TENSORRT, timing_cache=times), graph)
    assert times.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_a_build_at_its_next_step(library: Any, graph: Path) -> None:
    def interrupt(_: str, step: int) -> None:
        if step == 1:
            time.sleep(0.1)  # by then the other thread waits for this one
            os.kill(os.getpid(), signal.SIGINT)

    library.during, library.steps = interrupt, 10**9
    with pytest.raises(KeyboardInterrupt):
        built(EngineBuilder(TENSORRT), graph)
    assert library.cancelled
    assert not graph.with_suffix(".engine").exists()


def test_the_stand_in_offers_nothing_that_the_originals_lack(stand_in: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for name, mine in vars(stand_in).items():
        original = trt if name == "Library" else getattr(trt, name)
        offered = {attribute for attribute in vars(mine) if not attribute.startswith("_")}
        assert offered - {"creator", "load_library"} <= set(dir(original)), name
    assert {"node", "node_name", "node_operator", "code", "desc"} <= set(dir(trt.ParserError))
