"""The process that works on pictures here may die; the run goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from structsam_runtime import UserError
from structsam_runtime.batch import local
from structsam_runtime.batch.attempts import ATTEMPTS, deaths, forget
from structsam_runtime.batch.job import Job
from structsam_runtime.batch.segment import Outcome

Begin = Callable[..., Job]
Die = Callable[[Job, str, int], None]
Reading = Callable[[str, str], str]


def test_a_picture_that_crashes_is_named_and_the_rest_is_done(
    started: Begin, die: Die, reading: Reading
) -> None:
    crash = reading("b.png", "os.kill(os.getpid(), signal.SIGSEGV)")
    job = started("a.png", "b.png", "deep/c.png", "d.png", code=crash)
    die(job, "b.png", ATTEMPTS - 1)  # in a run before
    outcomes = list(local.run(job, ["a.png", "b.png", "deep/c.png", "d.png"]))
    assert [one.image for one in outcomes] == ["a.png", "b.png", "deep/c.png", "d.png"]
    assert [one.stage for one in outcomes] == [None, "process", None, None]
    assert [job.done(one.image) for one in outcomes] == [True, False, True, True]
    assert deaths(job, "b.png") == ATTEMPTS
    forget(job, "b.png")
    assert not list(job.output.rglob(".*"))


def test_warnings_of_the_process_are_one_line(
    started: Begin, reading: Reading, capfd: pytest.CaptureFixture[str]
) -> None:
    warn = "import warnings, structsam_runtime.errors as e; warnings.warn('two\\nlines', e.Caution)"
    job = started("a.png", code=reading("a.png", warn))
    assert [one.error for one in local.run(job, ["a.png"])] == [None]
    assert capfd.readouterr().err == "warning: two\\nlines\n"


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT), os.kill(os.getppid(), signal.SIGINT), time.sleep(60)"


def test_an_interruption_ends_the_process_and_counts_for_nothing(
    started: Begin, reading: Reading, tmp_path: Path
) -> None:
    at_the_end = f"""
from multiprocessing.util import Finalize
from pathlib import Path
Finalize(None, Path({str(tmp_path / "ended")!r}).touch, exitpriority=0)
"""
    job = started("a.png", "b.png", code=reading("b.png", INTERRUPT) + at_the_end)
    run = local.run(job, ["a.png", "b.png"])
    assert next(run) == Outcome("a.png")
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert (tmp_path / "ended").exists()  # it was told to, and not killed
    assert not list(job.output.rglob(".*"))


def test_a_process_that_does_not_end_when_it_is_told_to_is_killed(
    started: Begin, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN), {INTERRUPT}"
    monkeypatch.setattr(local, "PATIENCE", 0.1)
    job = started("b.png", code=reading("b.png", deaf))
    with pytest.raises(KeyboardInterrupt):
        next(local.run(job, ["b.png"]))
    assert deaths(job, "b.png") == 0


def test_what_is_wrong_with_the_model_is_told_in_one_line(started: Begin, tmp_path: Path) -> None:
    job = started("a.png")
    gone = Job(**{**vars(job), "model": tmp_path / "gone"})
    with pytest.raises(UserError, match=r"no folder .*gone; expected the output folder of structsam export"):
        next(local.run(gone, ["a.png"]))


def test_a_process_that_dies_before_the_model_is_open_ends_the_run(started: Begin) -> None:
    job = started("a.png", code="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UserError, match=r"the process that opens .* was ended by SIGKILL"):
        next(local.run(job, ["a.png"]))
    assert deaths(job, "a.png") == 0


def test_a_process_that_dies_of_no_picture_is_not_replaced_for_ever(
    started: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def dying(_: Job) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(send=lambda _: None, recv=Mock(side_effect=EOFError))

    monkeypatch.setattr(local, "_worker", dying)
    with pytest.raises(UserError, match="dies before it begins a picture"):
        next(local.run(started("a.png"), ["a.png"]))
