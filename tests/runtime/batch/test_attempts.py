"""What processes die of is tried three times, whoever tries it."""

import os
from collections.abc import Callable

import pytest

from structsam_runtime.batch.attempts import ATTEMPTS, attempt, deaths
from structsam_runtime.batch.job import Job
from structsam_runtime.batch.segment import Outcome

Begin = Callable[..., Job]
Die = Callable[[Job, str, int], None]


def test_a_picture_is_begun_three_times_and_then_named(started: Begin, die: Die) -> None:
    job = started("a.png", "b.png")
    for count in range(ATTEMPTS):
        assert deaths(job, "a.png") == count
        die(job, "a.png", 1)
    for _ in range(2):  # a rerun does not try it either
        outcome = attempt(job, "a.png", lambda image: pytest.fail("it is begun again"))
        assert (outcome.image, outcome.stage) == ("a.png", "process")
        assert "3 processes died while they worked on it" in str(outcome.error)
    assert deaths(job, "b.png") == 0
    assert attempt(job, "b.png", Outcome) == Outcome("b.png")

    named = [path for path in job.output.iterdir() if str(path) in str(outcome.error)]
    named[0].unlink()  # as it says
    assert attempt(job, "a.png", Outcome) == Outcome("a.png")


def test_another_picture_of_that_name_is_begun_anew(started: Begin, die: Die) -> None:
    job = started("a.png")
    die(job, "a.png", ATTEMPTS)
    os.utime(job.images / "a.png", ns=(1, 1))
    assert deaths(job, "a.png") == 0
    assert attempt(job, "a.png", Outcome) == Outcome("a.png")
    assert [path.name for path in job.output.iterdir()] == ["batch.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_what_python_ends_is_no_death(started: Begin, error: type[BaseException]) -> None:
    job = started("a.png")

    def ended(_: str) -> Outcome:
        assert deaths(job, "a.png") == 1  # were this the end
        raise error

    for _ in range(ATTEMPTS + 1):
        with pytest.raises(error):
            attempt(job, "a.png", ended)
    assert deaths(job, "a.png") == 0


def test_the_folder_of_results_may_go_away_meanwhile(started: Begin) -> None:
    job = started("a.png")
    (job.output / "batch.json").unlink()
    job.output.rmdir()
    assert attempt(job, "a.png", Outcome) == Outcome("a.png")
    assert [path.name for path in job.output.iterdir()] == ["batch.json"]


@pytest.mark.parametrize("name", ["none.png", os.fsdecode(b"\xff.png"), "x" * 300])
def test_a_picture_that_is_not_there_is_left_to_reading(started: Begin, name: str) -> None:
    job = started("a.png")
    assert attempt(job, name, lambda image: Outcome(image, "read", "no file")).error == "no file"
    assert deaths(job, name) == 0
