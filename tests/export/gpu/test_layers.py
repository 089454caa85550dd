"""The kernels against PyTorch on single layers, and the process that checks small ones."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from structsam_export.gpu import layers, sanitizer
from structsam_export.gpu.layers import Merged, checked, small, steps
from structsam_export.merging.kernels import TensorKernels
from structsam_plugins import Kernels
from structsam_plugins.build import build

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ here to compile the kernels with"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for the CPU."""
    return build("cpu", tmp_path_factory.mktemp("kernels"))


@pytest.mark.engine
@needs_compiler
def test_right_kernels_pass_and_wrong_ones_are_misses(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = TensorKernels(Kernels(library))
    for merged in small():
        for dtype in (torch.float32, torch.float16):
            row = checked(kernels, merged, dtype, "cpu")
            assert row["misses"] == []
            assert row["what"] == f"kernels, {merged.what}, {'fp16' if dtype == torch.float16 else 'fp32'}"

    def changed(name: str, change: Callable[[Any], Any]) -> list[str]:
        with monkeypatch.context() as patch:
            real: Callable[..., Any] = getattr(TensorKernels, name)
            patch.setattr(TensorKernels, name, lambda *arguments: change(real(*arguments)))
            misses: list[str] = checked(kernels, next(small()), torch.float32, "cpu")["misses"]
        return misses

    (miss,) = changed("score", lambda made: (-made[0], made[1]))
    assert miss.startswith("plans agree for ")
    (miss,) = changed("merge", lambda slots: slots * 1.001)
    assert miss.startswith("means differ by ")
    (miss,) = changed("unmerge", lambda total: total.roll(1, 1))
    assert miss == "the unmerged sum differs from PyTorch's"


@pytest.mark.engine
@needs_compiler
def test_every_step_is_timed_both_ways(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "CALLS", 1)
    rows = list(steps(TensorKernels(Kernels(library)), next(small()), 3, "cpu", 2))
    ways = [(step, by) for step in ("plan", "merge", "unmerge") for by in ("PyTorch", "kernels")]
    assert [(row["step"], row["by"]) for row in rows] == ways
    assert all(row["batch"] == 3 and len(row["seconds"]) == 2 for row in rows)
    assert all(row["ratio_median"] == 1 for row in rows if row["by"] == "PyTorch")


def test_small_layers_are_padded_and_not_and_one_merges_whole() -> None:
    merged = list(small())
    assert {one.windows.padded for one in merged} == {True, False}
    assert any(one.layer.merged == one.layer.cells for one in merged)
    assert {one.method.heads for one in merged} >= {1, 2}


@pytest.mark.parametrize("misses", [[], ["means differ", "the unmerged sum differs"]])
def test_the_process_prints_misses(
    misses: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(kernels: object, merged: Merged, dtype: torch.dtype, device: str) -> dict[str, Any]:
        return {"what": "a layer", "misses": misses if dtype == torch.float16 else []}

    monkeypatch.setattr(layers, "Kernels", lambda path: path)
    monkeypatch.setattr(layers, "checked", look)
    assert layers.main("lib.so", "cpu") == bool(misses)
    assert capsys.readouterr().out == "".join(f"a layer: {miss}\n" for miss in misses) * len(list(small()))


# The process, which is a shell script here


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`program(text)` makes a shell script take the place of compute-sanitizer."""

    def make(text: str) -> None:
        script = tmp_path / "compute-sanitizer"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sanitizer, "PROGRAM", str(script))

    return make


def test_a_tool_runs_the_check_of_small_layers(program: Callable[[str], None], tmp_path: Path) -> None:
    program(f'echo "$@" > {tmp_path}/arguments; echo $PYTORCH_NO_CUDA_MEMORY_CACHING >> {tmp_path}/arguments')
    sanitizer.small_check(Path("lib.so"), "cuda", "racecheck", 60)
    told = f"--tool racecheck --error-exitcode 9 {sys.executable} -m structsam_export.gpu.layers lib.so cuda"
    assert (tmp_path / "arguments").read_text() == f"{told}\n1\n"
    assert sanitizer.available()


def test_what_the_tool_finds_is_raised(program: Callable[[str], None]) -> None:
    program("for line in 1 2 3 4 5; do echo line $line; done; echo last >&2; exit 9")
    with pytest.raises(RuntimeError, match=r"^exit code 9: line 3; line 4; line 5; last$"):
        sanitizer.small_check(Path("lib.so"), "cuda", "memcheck", 60)


def test_a_tool_that_takes_too_long_is_ended_with_its_children(
    program: Callable[[str], None], tmp_path: Path
) -> None:
    program(f"sleep 100 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(TimeoutError, match="not finished after 0 s"):
        sanitizer.small_check(Path("lib.so"), "cuda", "memcheck", 0.5)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # until whoever adopted it has waited for it
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("the child is still there")
