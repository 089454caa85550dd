"""`structsam doctor`: what is here, what works, and what to install for the rest."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from structsam_runtime import OnnxRuntimeRunner, OpenVinoRunner, UserError, doctor
from structsam_runtime.doctor import Commands, Findings, Gpu, Library, Trial, attempt, report, tried
from structsam_runtime.runners import RUNNERS
from structsam_runtime.runners.base import Runner
from structsam_runtime.runners.cuda import CudaError

Ended = tuple[int | str | None, str, str]


def program(folder: Path, name: str, script: str) -> Path:
    """Writes a program of the shell."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def no_gpu() -> Any:
    raise CudaError("CUDA failed in cudaGetDeviceProperties: no device")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners are tried in this process, and there is no GPU."""

    def answered(runner: str) -> Trial:
        works, _, told = doctor._answer(runner).partition(" ")
        return Trial(runner, works == "works", told)

    monkeypatch.setattr(doctor, "tried", answered)
    monkeypatch.setattr(doctor, "_driver_facts", dict)
    monkeypatch.setattr(doctor.cuda, "gpu", no_gpu)


@pytest.fixture
def bare(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed but what the runtime needs."""
    for module in (
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt_rtx",
        "cuda.bindings.runtime",
        "torch",
        "onnx",
    ):
        monkeypatch.setitem(sys.modules, module, None)  # what import finds for a blocked module

    def version(name: str) -> str:
        if name != "numpy":
            raise PackageNotFoundError(name)
        return "2.0"

    monkeypatch.setattr(doctor, "version", version)


def test_without_any_extra_everything_says_what_brings_it(
    bare: None, run_command: Callable[[str, str], Ended]
) -> None:
    code, out, err = run_command("doctor", "")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    brought = {"onnxruntime": "[cpu] or [cuda]", "tensorrt-rtx": "[rtx]", "torch": "[export]"}
    for name, extra in brought.items():
        assert any(f"{name} " in line and f"not installed; {extra}" in line for line in out.splitlines())
    assert all("does not work: " in lines[name] and "pip install" in lines[name] for name in RUNNERS)
    assert "CUDA failed in cudaGetDeviceProperties: no device" in lines["none"]
    assert "export, macs," in out
    assert 'torch; pip install "structsam[export,cpu]"' in out


def test_json_has_all_that_is_printed(here: None, run_command: Callable[[str, str], Ended]) -> None:
    code, out, err = run_command("doctor", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["python"] == sys.version.split()[0]
    assert [one["runner"] for one in found["runners"]] == [*RUNNERS]
    assert found["runners"][0]["works"]
    assert "CPUExecutionProvider" in found["providers"]
    assert "doctor" not in found["pytorch"]["names"]
    assert "export" in found["pytorch"]["names"]
    assert found["pytorch"]["missing"] == []


# Trials


def test_the_model_is_one_convolution_by_two() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [2.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert model.SerializeToString() == doctor._MODEL


@pytest.mark.parametrize(
    ("runner", "kind", "name"),
    [("cpu", OnnxRuntimeRunner, "ONNX Runtime "), ("openvino", OpenVinoRunner, "OpenVINO ")],
)
def test_a_runner_works_if_it_computes_what_is_right(
    runner: str, kind: type[Runner], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(runner).startswith(name)
    rounded = {"y": np.full((1, 1, 1, 1), 5.75, np.float32)}
    monkeypatch.setattr(kind, "infer", lambda *_: rounded)
    with pytest.raises(UserError, match=r"it computes 2 x 3 = 5\.75"):
        attempt(runner)


@pytest.mark.parametrize("runner", ["tensorrt", "tensorrt-rtx"])
def test_engines_need_their_library_and_a_gpu(
    runner: str, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    trt = SimpleNamespace(__version__="10.3.0", Runtime=made.append)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    monkeypatch.setattr(doctor, "logger", lambda library: library.__version__)
    assert doctor._answer(runner) == "fails CUDA failed in cudaGetDeviceProperties: no device"
    assert made == []
    monkeypatch.setattr(doctor.cuda, "gpu", lambda: None)
    assert doctor._answer(runner) == f"works {runner} 10.3.0"
    assert made == ["10.3.0"]

    def refuse(log: str) -> None:
        raise TypeError("factory function\nreturned nullptr")

    trt.Runtime = refuse
    assert doctor._answer(runner) == "fails TypeError: factory function returned nullptr"


def test_a_trial_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('of the folder that somebody is in')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
    monkeypatch.chdir(tmp_path)
    assert tried("cpu") == Trial("cpu", True, attempt("cpu"))


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -9 $$", "its process ended with -9: no message"),
        ("echo works well; kill -11 $$", "its process ended with -11: no message"),
        ("echo 'no\nsymbol \33[31m here' >&2; exit 1", r"its process ended with 1: no symbol \x1b[31m here"),
        ("exit 0", "its process ended with 0: no message"),
        ("exec sleep 9", "it did not answer in 0.2 s"),
        ("echo noise; echo fails for a reason", "for a reason"),
    ],
)
def test_a_library_that_takes_its_process_along_is_a_line(
    script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(program(tmp_path, "python", script)))
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2 if "sleep" in script else 20)
    assert tried("tensorrt") == Trial("tensorrt", False, told)


# The GPU


def test_a_gpu_is_described_by_cuda_python(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("total_memory", 2**34), ("newest", "13.0")):
        monkeypatch.setattr(doctor.cuda, name, lambda value=value: value)
    monkeypatch.setattr(doctor.cuda, "gpu", lambda: SimpleNamespace(name="NVIDIA Test", capability="9.0"))
    assert doctor._gpu() == (Gpu("NVIDIA Test", "9.0", 2**34, None, "13.0"), None)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (
            "echo 'NVIDIA A, 8.6, 24564, 580.95'; echo 'NVIDIA B, 9.0, 1, 580.95'",
            Gpu("NVIDIA A", "8.6", 24564 * 2**20, "580.95", None),
        ),
        ("echo 'Orin (nvgpu), 8.7, [N/A], 540.4.0'", Gpu("Orin (nvgpu)", "8.7", None, "540.4.0", None)),
        ("echo 'No devices were found'", None),
        ("exit 9", None),
    ],
)
def test_a_gpu_is_described_by_its_driver_without_cuda_python(
    script: str, found: Gpu | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(doctor.cuda, "gpu", no_gpu)
    reason = None if found else "CUDA failed in cudaGetDeviceProperties: no device"
    assert doctor._gpu() == (found, reason)


# The report

WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
FINDINGS = st.builds(
    Findings,
    structsam=WORDS,
    python=WORDS,
    system=WORDS,
    libraries=st.lists(
        st.builds(
            Library, WORDS, st.lists(WORDS, max_size=2).map(tuple), st.sampled_from([None, "[cpu]", "[rtx]"])
        ),
        min_size=1,
        max_size=8,
    ).map(tuple),
    providers=st.lists(WORDS, max_size=3).map(tuple),
    gpu=st.none()
    | st.builds(
        Gpu, WORDS, WORDS, st.none() | st.integers(2**30, 2**38), st.none() | WORDS, st.none() | WORDS
    ),
    no_gpu=WORDS,
    runners=st.lists(st.builds(Trial, WORDS, st.booleans(), WORDS), min_size=1, max_size=4).map(tuple),
    pytorch=st.builds(
        Commands,
        st.just(("export", "check")),
        st.lists(WORDS, max_size=3).map(tuple),
        st.just("pip install it"),
    ),
)


@given(FINDINGS)
def test_a_report_is_one_screen_with_every_fact(found: Findings) -> None:
    text = report(found)
    rows = len(found.libraries) + 1 + len(found.runners) + 1
    assert len(text.splitlines()) == 1 + 4 * 2 + rows
    for one in found.runners:
        assert f"  {one.runner} " in text
        assert ("works: " if one.works else "does not work: ") + one.told in text
    for library in found.libraries:
        assert any(line.startswith(f"  {library.name} ") for line in text.splitlines())
        assert library.versions or "not installed" in text
        assert all(version in text for version in library.versions)
    facts = [*asdict(found.gpu).values()] if found.gpu else ["none found", found.no_gpu]
    assert all(fact in text for fact in facts if isinstance(fact, str))
    assert ("pip install it" in text) == bool(found.pytorch.missing)
    lacking = replace(found, pytorch=replace(found.pytorch, missing=("torch",)))
    assert "lack torch; pip install it" in report(lacking)
