"""One picture after another in one process: what goes wrong with one is its own."""

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from structsam_runtime import UserError
from structsam_runtime.batch import segment as batch
from structsam_runtime.batch.job import Job
from structsam_runtime.batch.segment import ERRORS, Outcome, Segmenter, note_errors

Begin = Callable[..., Job]


def look(job: Job, *images: str) -> list[Outcome]:
    """Outcomes of pictures."""
    with Segmenter(job) as segment:
        return [segment(image) for image in images]


def files(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def failing(name: str, error: BaseException, inner: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a path that raises an error for one file name and does its work for others."""

    def call(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:
            raise error
        return inner(path, *args, **options)

    return call


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (ZeroDivisionError("two\nlines"), "ZeroDivisionError: two lines"),
        (TypeError("an unknown tag"), "TypeError: an unknown tag"),
        (AssertionError(), "AssertionError"),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (UserError("b.png is no picture"), "b.png is no picture"),
    ],
)
def test_whatever_reading_raises_ends_that_picture_alone(
    started: Begin, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(batch, "read_image", failing("b.png", error, batch.read_image))
    job = started("a.png", "b.png", "d.png")
    outcomes = look(job, "a.png", "b.png", "d.png")
    assert outcomes == [Outcome("a.png"), Outcome("b.png", "read", told), Outcome("d.png")]
    assert files(job.output) == {"batch.json", "a.png.json", "d.png.json"}


def test_whatever_the_model_raises_ends_that_picture_alone(
    started: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started("a.png", "b.png")
    errors = iter([MemoryError("no room for masks"), None])
    inside = Segmenter._inside

    def once(self: Segmenter, boxes: Any) -> Any:
        if error := next(errors):
            raise error
        return inside(self, boxes)

    monkeypatch.setattr(Segmenter, "_inside", once)
    assert look(job, "a.png", "b.png") == [
        Outcome("a.png", "segment", "MemoryError: no room for masks"),
        Outcome("b.png"),
    ]


@pytest.mark.parametrize(("embeddings", "lengths"), [(False, range(243, 256)), (True, (250, 251))])
def test_a_long_name_is_done_where_its_result_can_have_one(
    started: Begin, embeddings: bool, lengths: Sequence[int]
) -> None:
    names = ["x" * (length - 4) + ".png" for length in lengths]
    job = started(*names, embeddings=embeddings)
    for name, outcome in zip(names, look(job, *names), strict=True):
        fits = len(name) + len(".json") <= 255
        assert job.done(name) == fits
        assert outcome.stage == (None if fits else "write")
        assert fits or str(outcome.error).endswith("File name too long")
    kept = (".json", ".npz") if embeddings else (".json",)
    whole = {f"{name}{suffix}" for name in names if job.done(name) for suffix in kept}
    assert files(job.output) == {"batch.json"} | whole


def test_nothing_is_computed_for_a_result_that_cannot_be_written(
    started: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started("a.png", "deep/c.png", "d.png")
    job.result("a.png").mkdir()
    (job.output / "deep").touch()
    monkeypatch.setattr(batch, "read_image", failing("d.png", ZeroDivisionError(), lambda *_: 1 / 0))
    told = [(one.stage, one.error) for one in look(job, "a.png", "deep/c.png")]
    assert [stage for stage, _ in told] == ["write", "write"]
    assert f"cannot write {job.result('a.png')}: it is a folder" in str(told[0][1])
    assert f"cannot write {job.result('deep/c.png')}: " in str(told[1][1])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EFBIG])
def test_a_result_that_fails_to_be_written_ends_that_picture_alone(
    started: Begin, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job = started("a.png", "b.png")
    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        if target.name == "a.png.json":
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    told = f"cannot write {job.result('a.png')}: {os.strerror(number)}"
    assert look(job, "a.png", "b.png") == [Outcome("a.png", "write", told), Outcome("b.png")]
    assert files(job.output) == {"batch.json", "b.png.json"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_not_the_picture(started: Begin, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    job = started("a.png")

    def full(self: Path, text: str, encoding: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=f"^cannot write {job.result('a.png')}: {os.strerror(number)}$"):
        look(job, "a.png")
    assert files(job.output) == {"batch.json"}


def test_a_result_is_on_the_disk_before_it_has_its_name(
    started: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seen = started("a.png"), []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        where = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((where.is_dir(), job.result("a.png").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert look(job, "a.png") == [Outcome("a.png")]
    assert seen == [(False, False), (True, True)]


def test_a_result_says_which_state_of_the_picture_it_is_of(started: Begin) -> None:
    job = started("a.png")
    look(job, "a.png")
    found, status = json.loads(job.result("a.png").read_text()), (job.images / "a.png").stat()
    assert found["input"] == {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def test_errors_are_a_line_each_and_none_is_left_where_there_are_none(started: Begin) -> None:
    job = started("a.png")
    odd = os.fsdecode(b"\xff\n.png")
    failed = [Outcome("a.png", "read", "damaged"), Outcome(odd, "process", "died"), Outcome("b.png")]
    note_errors(job, failed)
    lines = (job.output / ERRORS).read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"image": "a.png", "stage": "read", "error": "damaged"},
        {"image": odd, "stage": "process", "error": "died"},
    ]
    assert lines[-1] == b""
    note_errors(job, [Outcome("a.png")])
    assert not (job.output / ERRORS).exists()


def test_nan_is_a_failure_of_its_picture(started: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    job = started("a.png")
    monkeypatch.setattr(Segmenter, "_inside", lambda *_: [{"predicted_iou": float("nan")}])
    assert look(job, "a.png") == [Outcome("a.png", "segment", "the model gives NaN or infinity for a.png")]
    assert not np.any([path.name.startswith(".") for path in job.output.iterdir()])
