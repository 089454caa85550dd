"""What a measurement was taken on."""

from pathlib import Path

import pytest

from structsam_runtime.benchmarking import machine


def test_processor_cores_and_gpus_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address, name in (("0000:01:00.0", "NVIDIA GeForce RTX 4090"), ("0000:02:00.0", "NVIDIA L4")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 16\n")
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    monkeypatch.setattr(machine, "processor", lambda: "Some CPU")
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert machine.machine() == "Some CPU, 8 cores, NVIDIA GeForce RTX 4090, NVIDIA L4"


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_GPUS", tmp_path / "none")
    assert machine.machine() == f"{machine.processor()}, {machine.counted(machine.cores())}"
    assert [machine.counted(number) for number in (1, 2, 16)] == ["1 core", "2 cores", "16 cores"]
    assert machine.cores() >= 1
