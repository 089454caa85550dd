"""Training on pictures of 80 x 60 pixels with a SAM of two blocks."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.models.architectures import Architecture
from structsam_export.training import loop, schedule
from structsam_export.training.curves import plot
from structsam_export.training.data import Samples
from structsam_export.training.loop import begin, content, read, restore, resume, train
from structsam_export.training.photos import Photos
from structsam_export.training.schedule import WARMUP, Settings, Stage
from structsam_export.training.validate import Score
from structsam_runtime.errors import UserError

STAGES = (Stage(0.5, 32), Stage(1.0, 48))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is of one picture, is logged and saved, and validation takes no time."""
    monkeypatch.setattr(schedule, "BATCH_SIZE", 32)
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
    if record["step"] == 3 and "loss" in record:
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
    whole = settings(tmp_path / "whole", tiny_nano, steps=4)
    run = begin(whole)
    train(run, whole, every, lambda record: None)

    parted = settings(tmp_path / "parted", tiny_nano, steps=4)
    with pytest.raises(Stop):
        train(begin(parted), parted, every, interrupt)
    second = resume(parted)
    assert second.step == 2  # the third was done but not saved
    assert (second.seen, run.seen) == (2, 4)
    train(second, parted, every, lambda record: None)
    assert same(run.sam.state_dict(), second.sam.state_dict())
    assert same(run.average.state_dict(), second.average.state_dict())
    assert losses(tmp_path / "whole") == losses(tmp_path / "parted")
    assert len(losses(tmp_path / "whole")) == 4
    assert [record["size"] for record in map(json.loads, whole.curves.read_text().splitlines())][-1] == 48
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
    assert {record["size"] for record in records} == {32, 48}
    assert "validation" in records[-1]
    assert read(timed.last)["step"] == run.step
    again = resume(timed)
    train(again, timed, every, records.append, Ticks())
    assert again.step == run.step
    longer = settings(tmp_path / "timed", tiny_nano, minutes=0.5)
    train(again, longer, every, records.append, Ticks())
    assert again.step > run.step


def test_steps_lower_the_loss(every: Photos, tmp_path: Path, tiny_nano: Architecture) -> None:
    """Of a sample that is seen again and again; and the average follows."""
    learning = settings(tmp_path, tiny_nano, steps=1000)
    sample = Samples(every, 32, 0, 1)[0]
    batch = {name: value[None] for name, value in sample.items()}
    run = begin(learning)
    run.step = WARMUP  # at the full rate
    before = copy.deepcopy(run.average.state_dict())
    update = loop._updating(run, learning)
    lost = [loop._step(run, learning, update, batch, 0.0)["loss"] for _ in range(12)]
    assert lost[-1] < lost[0]
    changed = run.average.state_dict()
    assert all(not torch.equal(changed[name], before[name]) for name in before if "blocks.0" in name)


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


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_checkpoint_that_was_cut_short_is_one_line(tmp_path: Path, keep: int) -> None:
    torch.save({"step": torch.zeros(100)}, tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"last\.pt is damaged \(.*\); remove it to train from the start"):
        read(tmp_path / "last.pt")


def test_a_line_of_the_curves_that_was_cut_short_is_dropped() -> None:
    assert [loop._step_of(line) for line in ('{"step": 3, "loss": 1}\n', '{"step": 4, "lo')] == [
        3,
        float("inf"),
    ]
