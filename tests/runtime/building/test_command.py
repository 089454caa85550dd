"""`structsam build` as a person calls it: what it prints, and with a real library what it builds."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from structsam_runtime import UserError
from structsam_runtime.manifest import Manifest
from structsam_runtime.runners import cuda

Ended = tuple[int | str | None, str, str]


@pytest.fixture
def typed(folder: Path, run_command: Callable[[str, str], Ended]) -> Callable[[str], Ended]:
    """Types a line of options, beside the folder of the export, which is out."""

    def call(line: str) -> Ended:
        folder.rename("out")
        return run_command("build", f"out {line}")

    return call


@pytest.fixture(autouse=True)
def back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_says_what_it_built_and_what_to_type_next(library: Any, typed: Callable[[str], Ended]) -> None:
    code, out, err = typed("--engine tensorrt --max-prompts 5 --workspace 64 --timing-cache times")
    assert (code, len(err.splitlines())) == (0, 2)
    assert out == (
        "out: engines of tensorrt 10.3.0 for NVIDIA Test\nnext: structsam check out --runner tensorrt\n"
    )
    made = json.loads(Path("out/decoder.engine").read_bytes())
    assert (made["workspace"], made["profiles"][0]["has_mask_input"]) == (64 << 20, [[1], [1], [5]])
    assert Path("times").read_bytes() == b"times of this GPU:encoder.onnxdecoder.onnx"


def test_a_failed_build_is_one_line_and_code_3(library: Any, typed: Callable[[str], Ended]) -> None:
    library.parser_errors["encoder.onnx"] = [("/a/TopK", "TopK", "UNSUPPORTED_NODE", "K\nis large")]
    assert typed("--engine tensorrt") == (
        3,
        "",
        "failed: tensorrt cannot parse encoder.onnx: node /a/TopK (TopK): UNSUPPORTED_NODE: K is large; "
        "the export is as it was\n",
    )


def test_a_full_disk_is_one_line(library: Any, typed: Callable[[str], Ended]) -> None:
    def full(graph: str, _: int) -> None:
        if graph == "decoder.onnx":
            raise OSError(28, "No space left on device")

    library.during = full
    told = "error: out cannot be written: No space left on device; the export is as it was\n"
    code, out, err = typed("--engine tensorrt")
    assert (code, out, err.splitlines(keepends=True)[1:]) == (2, "", [told]), "after the line of the encoder"
    assert not Path("out/encoder.engine").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "Missing option '--engine'"),
        ("--engine cpu", "--engine cpu is unknown; expected tensorrt or tensorrt-rtx"),
        ("--engine tensorrt --max-prompts 0", "--max-prompts"),
        ("--engine tensorrt --max-prompts 100000000000", "--max-prompts"),
        ("--engine tensorrt-rtx --plugins x.so", "tensorrt-rtx supports no plugins"),
        ("--engine tensorrt --plugins x.so", "no file x.so; expected a library of plugins"),
        ("--engine tensorrt-rtx --print-trtexec", "--print-trtexec needs --engine tensorrt; "),
    ],
)
def test_usage_errors_are_one_line(library: Any, typed: Callable[[str], Ended], line: str, told: str) -> None:
    code, out, err = typed(line)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert told in err


def test_the_commands_of_trtexec_build_the_same_by_hand(typed: Callable[[str], Ended]) -> None:
    """Without the library and a GPU."""
    code, out, err = typed(
        "--engine tensorrt --print-trtexec --max-prompts 5 --workspace 64 --timing-cache t"
    )
    assert (code, err) == (0, "")
    encoder, decoder = (shlex.split(line) for line in out.splitlines())
    same = ["--stronglyTyped", "--noTF32"]
    ending = ["--memPoolSize=workspace:64", "--timingCacheFile=t"]
    assert encoder == ["trtexec", "--onnx=out/encoder.onnx", "--saveEngine=encoder.engine", *same, *ending]
    assert decoder == [
        "trtexec",
        "--onnx=out/decoder.onnx",
        "--saveEngine=decoder.engine",
        *same,
        "--minShapes=point_coords:1x1x2,point_labels:1x1,mask_input:1x1x256x256,has_mask_input:1",
        "--optShapes=point_coords:1x2x2,point_labels:1x2,mask_input:1x1x256x256,has_mask_input:1",
        "--maxShapes=point_coords:5x16x2,point_labels:5x16,mask_input:5x1x256x256,has_mask_input:5",
        *ending,
    ]
    assert not Path("out/encoder.engine").exists()


@pytest.mark.engine
def test_tensorrt_rtx_builds_an_export_without_a_gpu(typed: Callable[[str], Ended]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    code, out, err = typed("--engine tensorrt-rtx --max-prompts 2")
    assert (code, len(err.splitlines())) == (0, 2), err
    assert out.startswith(f"out: engines of tensorrt-rtx {trt.__version__} for compute capability 8.0, 8.6, ")
    manifest = Manifest.read(Path("out"))
    manifest.check_files(Path("out"), ["encoder.engine", "decoder.engine"])
    assert manifest.engine
    assert manifest.engine.version == trt.__version__
    try:
        cuda.gpu()
    except UserError:
        return
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(Path("out/decoder.engine").read_bytes())
    assert tuple(engine.get_tensor_profile_shape("point_labels", 0)[2]) == (2, 16)
