"""A SAM of two blocks, what a run records, and a clock that tests wind."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from structsam_export.choices import Precision
from structsam_export.config import ExportConfig
from structsam_export.gpu import record as record_module
from structsam_export.gpu.original import Original
from structsam_export.gpu.record import Record
from structsam_export.models.architectures import ARCHITECTURES, Architecture

MakeConfig = Callable[..., ExportConfig]


@pytest.fixture(scope="session")
def two_blocks(tiny_architecture: Architecture) -> Iterator[str]:
    """An architecture of one window block and one global one, known to every command from here on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "two", replace(tiny_architecture, depth=2, global_blocks=(1,)))
        yield "two"


@pytest.fixture(scope="session")
def at(two_blocks: str) -> MakeConfig:
    """`at(rate, **changes)`: the config of a contestant with 20 x 20 tokens, so that windows are padded."""

    def make(rate: float, **changes: Any) -> ExportConfig:
        chosen = {"random_weights": True, "image_size": 320, "precision": Precision.FP16} | changes
        return ExportConfig.of(two_blocks, rate=rate, **chosen)

    return make


@pytest.fixture(scope="session")
def original(at: MakeConfig) -> Original:
    """On the CPU."""
    return Original(at(0), "cpu")


@pytest.fixture(autouse=True)
def nothing_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between parts: a collection of garbage takes longer than these parts."""
    monkeypatch.setattr(record_module, "free", lambda: None)


@pytest.fixture
def head() -> dict[str, Any]:
    """What a result begins with."""
    machine = {"gpus": ["a GPU"], "processor": "a CPU", "cores": 2, "versions": {}, "date": "", "clocks": []}
    settings = {"arch": "two", "image_size": 320, "weights": "random weights", "repeat": 1, "batches": [1]}
    return {"machine": machine, "commit": None, "command": "python scripts/gpu.py"} | settings


@pytest.fixture
def record(head: dict[str, Any], tmp_path: Path) -> Record:
    """An empty record with much time."""
    return Record(tmp_path / "gpu.json", head, 60)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that records see: `clock.now` seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(record_module.time, "monotonic", lambda: clock.now)
    return clock
