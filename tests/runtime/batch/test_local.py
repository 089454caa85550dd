"""The process that works on pictures here may die; the run goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from structsam_runtime import UserError
from structsam_runtime.batch import local
from structsam_runtime.batch.attempts import ATTEMPTS, attempt, deaths, forget
from structsam_runtime.batch.job import Job
from structsam_runtime.batch.segment import Outcome

Begin = Callable[..., Job]

READER = """
import os, signal
from structsam_runtime.batch import segment
read = segment.read_image
def reader(path):
    if path.name == "b.png":
        {}
    return read(path)
segment.read_image = reader
"""
CRASH = READER.format("os.kill(os.getpid(), signal.SIGSEGV)")


def test_a_picture_that_crashes_is_named_and_the_rest_is_done(
    started: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started("a.png", "b.png", "deep/c.png", "d.png", code=CRASH)
    with monkeypatch.context() as patch:  # two processes have died of it before
        patch.setattr("structsam_runtime.batch.attempts.forget", lambda *_: None)
        for _ in range(ATTEMPTS - 1):
            attempt(job, "b.png", Outcome)
    assert deaths(job, "b.png") == ATTEMPTS - 1
    outcomes = list(local.run(job, ["a.png", "b.png", "deep/c.png", "d.png"]))
    assert [one.image for one in outcomes] == ["a.png", "b.png", "deep/c.png", "d.png"]
    assert [one.stage for one in outcomes] == [None, "process", None, None]
    assert [job.done(one.image) for one in outcomes] == [True, False, True, True]
    forget(job, "b.png")
    assert not list(job.output.rglob(".*"))


def test_an_interruption_ends_the_process_and_counts_for_nothing(started: Begin) -> None:
    job = started("a.png", "b.png", code=READER.format("os.kill(os.getppid(), signal.SIGINT)"))
    run = local.run(job, ["a.png", "b.png"])
    assert next(run) == Outcome("a.png")
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert deaths(job, "b.png") == 0
    assert not list(job.output.rglob(".*"))


def test_what_is_wrong_with_the_model_is_told_in_one_line(started: Begin, tmp_path: Path) -> None:
    job = started("a.png")
    gone = Job(**{**vars(job), "model": tmp_path / "gone"})
    with pytest.raises(UserError, match=r"no folder .*gone; expected the output folder of structsam export"):
        next(local.run(gone, ["a.png"]))
