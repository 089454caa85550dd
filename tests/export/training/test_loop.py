"""Training on pictures of 80 x 60 pixels with a SAM of two blocks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.models.architectures import Architecture
from structsam_export.training import loop
from structsam_export.training.curves import plot
from structsam_export.training.loop import begin, content, read, restore, resume, train
from structsam_export.training.photos import Photos
from structsam_export.training.schedule import Settings, Stage
from structsam_export.training.validate import Score
from structsam_runtime.errors import UserError

STAGES = (Stage(0.5, 16), Stage(1.0, 32))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is logged and saved, and validation takes no time."""
    monkeypatch.setattr(loop, "validate", lambda *_: {"coco": Score(0.5, 0.25, 0.1, 3)})
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def settings(folder: Path, arch: Architecture, **changes: Any) -> Settings:
    folder.mkdir(exist_ok=True)
    return Settings(folder, stages=STAGES, arch=arch, batch=1, **changes)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    """What interrupts a run."""


def interrupt(record: dict[str, Any]) -> None:
    if record["step"] == 5 and "loss" in record:
        raise Stop


class Ticks:
    """A clock on which every reading takes half a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_that_resumes_is_the_run_that_did_not_stop(
    every: Photos, tmp_path: Path, tiny_nano: Architecture
) -> None:
    """Bit for bit, across a change of the image size and into the decay."""
    whole = settings(tmp_path / "whole", tiny_nano, steps=6)
    run = begin(whole)
    train(run, whole, every, lambda record: None)

    parted = settings(tmp_path / "parted", tiny_nano, steps=6)
    with pytest.raises(Stop):
        train(begin(parted), parted, every, interrupt)
    second = resume(parted)
    assert second.step == 4  # the fifth was done but not saved
    assert second.seen == run.seen - sum(parted.images(STAGES[1]) for _ in range(2))
    train(second, parted, every, lambda record: None)
    assert same(run.sam.state_dict(), second.sam.state_dict())
    assert same(run.average.state_dict(), second.average.state_dict())
    assert losses(tmp_path / "whole") == losses(tmp_path / "parted")
    assert len(losses(tmp_path / "whole")) == 6
    assert [record["size"] for record in map(json.loads, whole.curves.read_text().splitlines())][-1] == 32
    plot(whole.curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_run_by_the_clock_ends_by_it(every: Photos, tmp_path: Path, tiny_nano: Architecture) -> None:
    """Through all stages, however few steps that is; and a longer run goes on."""
    timed = settings(tmp_path / "timed", tiny_nano, minutes=0.25)
    records: list[dict[str, Any]] = []
    run = begin(timed)
    train(run, timed, every, records.append, Ticks())
    assert 15 <= run.elapsed <= 20
    assert run.step > 2
    assert {record["size"] for record in records} == {16, 32}
    assert "validation" in records[-1]
    assert read(timed.last)["step"] == run.step
    again = resume(timed)
    train(again, timed, every, records.append, Ticks())
    assert again.step == run.step
    longer = settings(tmp_path / "timed", tiny_nano, minutes=0.5)
    train(again, longer, every, records.append, Ticks())
    assert again.step > run.step


def test_a_run_learns(every: Photos, tmp_path: Path, tiny_nano: Architecture, monkeypatch: Any) -> None:
    """One picture by heart."""
    one = Photos(every.train[:1], every.held_out, ())
    monkeypatch.setattr(loop, "MATRIX_RATE", 0.02)
    monkeypatch.setattr(loop, "RATE", 0.02)
    learning = Settings(tmp_path, 40, stages=(Stage(1.0, 16),), arch=tiny_nano, batch=1)
    train(begin(learning), learning, one, lambda record: None)
    curve = losses(tmp_path)
    assert sum(curve[-8:]) < 0.8 * sum(curve[:8])


def test_a_size_changes_only_positions(tmp_path: Path, tiny_nano: Architecture) -> None:
    run = begin(settings(tmp_path, tiny_nano, steps=1))
    larger = restore(content(run), tiny_nano, 64, "cpu").sam.state_dict()
    own = run.sam.state_dict()
    changed = {name for name in own if own[name].shape != larger[name].shape}
    assert "image_encoder.pos_embed" in changed
    assert all("pos" in name for name in changed)


def test_no_checkpoint_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        read(tmp_path / "last.pt")
