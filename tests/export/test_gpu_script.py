"""scripts/gpu.py as a person calls it, on the CPU with a small SAM."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from structsam_export.gpu import layers
from structsam_export.gpu.original import Original
from structsam_export.models.architectures import ARCHITECTURES, Architecture

SCRIPTS = Path(__file__).parents[2] / "scripts"
TRY = "-o gpu.json --device cpu --arch two --image-size 320 --batches 1 --repeat 2 --rates 0.55"

Ended = tuple[int | str | None, str, str]
Gpu = Callable[[str], Ended]
RunScript = Callable[[str, str], Ended]


@pytest.fixture
def gpu(
    tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch, tiny_architecture: Architecture
) -> Gpu:
    """Runs the script in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ARCHITECTURES, "two", replace(tiny_architecture, depth=2, global_blocks=(1,)))
    monkeypatch.setattr(layers, "CALLS", 1)
    return partial(run_script, "gpu")


@pytest.mark.export
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile the kernels with")
def test_it_checks_and_times_everything(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled without generated code, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    code, out, _ = gpu(f"{TRY} --minutes 30")
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert code == 0, result["misses"]
    assert (tmp_path / "gpu.md").read_text() in out
    assert not any(result[name] for name in ("misses", "left_out"))
    assert not any(check["misses"] for check in result["checks"])
    raced = {row["name"] + ", compiled" * row["compiled"] for row in result["encoders"]}
    assert raced == {
        *("Meta's, eager", "Meta's, fused attention", "Meta's, fused attention, compiled"),
        *("ours at rate 0.55", "ours at rate 0.55, compiled", "ours at rate 0.55, with the kernels"),
        *("ours at rate 0.55, widened", "ours at rate 0.55, mask", "ours at rate 0.55, gather"),
        "ours at rate 0.55, cpu, from the host",
    }
    assert {(row["step"], row["by"]) for row in result["kernels"]} == {
        (step, by) for step in ("plan", "merge", "unmerge") for by in ("PyTorch", "kernels")
    }
    assert all(row["min_s"] <= row["median_s"] <= row["max_s"] for row in result["encoders"])


def test_what_no_longer_fits_is_left_out_and_told(gpu: Gpu, tmp_path: Path) -> None:
    code, _, err = gpu(TRY.replace("gpu.json", f"{tmp_path}/gpu.json") + " --only eager, --minutes 0")
    assert code == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["left_out"] == [
        *(f"Meta's, eager, {precision}, batch 1: needs about 9 s" for precision in ("fp16", "fp32")),
        "Meta's, eager, fp16, batch 1, again: needs about 6 s",
    ]
    assert err.count("left out: ") == 3
    assert result["command"] == f"python scripts/gpu.py {TRY} --only eager, --minutes 0", "without folders"


def test_a_miss_is_exit_code_3(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"in {tmp_path}/a.py")

    monkeypatch.setattr(Original, "meta", fail)
    code, out, err = gpu(f"{TRY} --only eager,")
    assert code == 3
    assert "- Meta's, eager, fp16, batch 1: RuntimeError: in a.py\n" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-o gpu.md", "does not end in .json"),
        (f"{TRY} --batches 1,x", "--batches 1,x is not a list of numbers; expected e.g. 1,8"),
        (f"{TRY} --batches 9", "--batches 9 is out of range; expected whole numbers from 1 to 8"),
        (f"{TRY} --batches 1.5", "--batches 1.5 is out of range"),
        (f"{TRY} --rates 0.9", "0.9"),
        (f"{TRY} --device tpu", "--device tpu is unknown; expected cuda or cpu"),
        (f"{TRY} --engine tensorrt", "--engine tensorrt runs on a GPU; leave it out with --device cpu"),
        (f"{TRY} --checkpoint none.pth", "none.pth"),
        (f"{TRY} --only nothing", "--only nothing is in no name of a part; expected a piece of one, as"),
    ],
)
def test_usage_errors_print_one_line(gpu: Gpu, tmp_path: Path, line: str, said: str) -> None:
    code, out, err = gpu(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(gpu: Gpu) -> None:
    code, _, err = gpu("-o gpu.json")
    assert code == 2
    assert "PyTorch finds no GPU; to try the command, give --device cpu" in err


def test_the_commit_is_told_where_git_knows_it(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = runpy.run_path(str(SCRIPTS / "gpu.py"))["_commit"]
    assert told() is None or len(told().split("-")[0]) >= 7
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told() is None
