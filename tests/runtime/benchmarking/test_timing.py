"""Timing: who runs when, what is told of it, and what memory a process took."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.benchmarking.memory import peak_memory
from structsam_runtime.benchmarking.profile import operators
from structsam_runtime.benchmarking.timing import clocks, environment, footprint, interleaved, spread


def test_turns_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []
    seconds = interleaved({name: partial(order.append, name) for name in "ab"}, repeat=3)
    assert order == ["a", "b"] * 4
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_a_spread_has_ratios_of_medians_and_minima() -> None:
    told = spread([1.0, 2.0, 6.0], first=[4.0, 5.0, 8.0])
    assert (told["median_s"], told["min_s"], told["max_s"]) == (2.0, 1.0, 6.0)
    assert (told["ratio_median"], told["ratio_min"]) == (0.4, 0.25)


def test_the_environment_lists_what_a_timing_depends_on() -> None:
    told = environment("cpu")
    assert told["versions"]["numpy"] == np.__version__
    assert told["cores"] >= 1
    assert told["clocks"] == clocks()


def test_clocks_of_a_gpu_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '1980 MHz, 2619 MHz, 1980 MHz, 700.00 W, 580.1, Enabled'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert clocks()[-1].startswith("GPU clocks.sm 1980 MHz, clocks.mem 2619 MHz")
    program.write_text("#!/bin/sh\nexit 9\n")  # a driver that does not answer
    assert not [line for line in clocks() if line.startswith("GPU")]


def feeds(runner: OnnxRuntimeRunner) -> dict[str, np.ndarray]:
    return {name: np.zeros(spec.shape, spec.dtype) for name, spec in runner.inputs.items()}


def test_a_footprint_is_measured_in_a_separate_process(export_folder: Path) -> None:
    make = partial(OnnxRuntimeRunner, export_folder / "encoder.onnx")
    with make() as runner:
        given = feeds(runner)
    ballast = np.ones(2**27)  # a gigabyte here, which the other process has not
    with peak_memory() as here:
        assert ballast[0] == 1
    taken = footprint(make, given)
    assert taken.device is None
    if here:
        assert taken.host is not None
        assert taken.host < here[0] - 2**29


def test_a_profile_lists_every_operator_that_ran(export_folder: Path) -> None:
    path = export_folder / "encoder.onnx"
    with OnnxRuntimeRunner(path) as runner:
        given = feeds(runner)
    told = operators(path, "cpu", given, runs=2)
    assert told
    assert all(seconds >= 0 for seconds in told.values())
    assert list(told.values()) == sorted(told.values(), reverse=True)
