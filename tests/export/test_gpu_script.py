"""scripts/gpu.py as a person calls it, on the CPU with a small SAM; and the page that is made of it."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from structsam_export.choices import Attention, Engine, Precision
from structsam_export.config import ExportConfig
from structsam_export.merging.kernels import TensorKernels

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu.py"
TRY = "-o gpu.json --device cpu --arch vit_nano --image-size 224 --random-weights --batches 2 --repeat 2"

Ended = tuple[int | str | None, str, str]
Gpu = Callable[[str], Ended]
RunScript = Callable[[str, str], Ended]


@pytest.fixture
def gpu(tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Runs the script in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> Ended:
        return run_script("gpu", line)

    return call


@pytest.mark.export
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile the kernels with")
def test_it_checks_and_then_times_everything(gpu: Gpu, tmp_path: Path) -> None:
    code, out, err = gpu(f"{TRY} --rates 0.55")
    assert code == 0, err
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert (tmp_path / "gpu.md").read_text() in out
    checked = [check["what"] for check in result["checks"]]
    assert checked == [
        "kernels, window layer at rate 0.55, fp32",
        "kernels, global layer at rate 0.55, fp32",
        "vit_nano-structsam-r55-224px-fp32, cpu",
    ]
    assert not any(check["misses"] for check in result["checks"])
    raced = [(row["name"], row["batch"]) for row in result["encoders"]]
    assert len(raced) == len(set(raced)) == 2 + 1
    assert {(row["step"], row["by"]) for row in result["kernels"]} == {
        (step, by) for step in ("plan", "merge", "unmerge") for by in ("PyTorch", "kernels")
    }
    assert all(row["min_s"] <= row["median_s"] <= row["max_s"] for row in result["encoders"])


@pytest.mark.export
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile the kernels with")
def test_nothing_is_timed_where_something_is_wrong(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorKernels, "unmerge", lambda self, layer, slots, slot, residual: residual)
    code, _, err = gpu(f"{TRY} --rates 0.55")
    assert code == 3
    assert "failed: kernels, window layer at rate 0.55, fp32: the unmerged sum differs from PyTorch's" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-o gpu.md", "does not end in .json"),
        (f"{TRY} --batches 1,x", "--batches 1,x is not a list of numbers; expected e.g. 1,8"),
        (f"{TRY} --batches 9", "--batches 9 is out of range; expected numbers from 1 to 8"),
        (f"{TRY} --device tpu", "--device tpu is unknown; expected cuda or cpu"),
        (f"{TRY} --plugins a.so", "--plugins needs --engine tensorrt; add it"),
        (f"{TRY} --engine tensorrt", "--engine tensorrt runs on a GPU; leave it out with --device cpu"),
    ],
)
def test_usage_errors_print_one_line(gpu: Gpu, line: str, said: str) -> None:
    code, out, err = gpu(line)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(gpu: Gpu) -> None:
    code, _, err = gpu("-o gpu.json")
    assert code == 2
    assert "PyTorch finds no GPU; to try the command, give --device cpu" in " ".join(err.split())


def test_the_page_is_the_result_or_says_that_there_is_none() -> None:
    page = (ROOT / "benchmarks" / "gpu.md").read_text()
    if not (ROOT / "benchmarks" / "gpu.json").is_file():
        assert "has not been measured" in page
        assert "python scripts/gpu.py -o benchmarks/gpu.json" in page
        return
    result = json.loads((ROOT / "benchmarks" / "gpu.json").read_text())
    assert page == runpy.run_path(str(SCRIPT))["_page"](result)


@pytest.mark.parametrize("engine", [None, *Engine])
def test_every_form_of_attention_is_there_once(engine: Engine | None) -> None:
    config = ExportConfig("vit_b", precision=Precision.FP16, engine=engine)
    others = runpy.run_path(str(SCRIPT))["_other_forms"](config)
    assert sorted(one.form for one in [config, *others]) == sorted(Attention)
    assert len({one.name for one in [config, *others]}) == len(Attention)
    assert {replace(one, target=None, attention=None) for one in others} == {config}
