"""Stages, rates and batches of a run."""

from pathlib import Path

import pytest

from structsam_export.training.schedule import DECAY, STAGES, WARMUP, Settings, Stage


def test_progress_is_by_step_or_by_the_clock(tmp_path: Path) -> None:
    by_step, by_clock = Settings(tmp_path, steps=200), Settings(tmp_path, minutes=2)
    assert [by_step.progress(step, 1e9) for step in (0, 50, 200, 300)] == [0, 0.25, 1, 1]
    assert [by_clock.progress(10**9, seconds) for seconds in (0, 30, 120, 150)] == [0, 0.25, 1, 1]


def test_pace_rises_stays_and_falls(tmp_path: Path) -> None:
    settings = Settings(tmp_path, steps=1000)
    assert settings.pace(0, 0.0) == 1 / WARMUP
    assert [settings.pace(step, step / 1000) for step in (WARMUP - 1, 100, 250)] == [1, 1, 1]
    assert settings.pace(625, 0.625) == pytest.approx(0.5)
    assert settings.pace(999, 0.999) == pytest.approx(0.001 / DECAY)
    assert settings.pace(5, 0.9) == pytest.approx(6 / WARMUP)


def test_stages_end_where_they_say(tmp_path: Path) -> None:
    settings = Settings(tmp_path, 9, stages=(Stage(0.5, 32), Stage(1.0, 64)))
    assert [settings.stage(progress).size for progress in (0, 0.49, 0.5, 1)] == [32, 32, 64, 64]
    assert STAGES[-1].until == 1
    assert [stage.until for stage in STAGES] == sorted(stage.until for stage in STAGES)


def test_a_batch_has_about_the_same_pixels_at_every_size(tmp_path: Path) -> None:
    assert [Settings(tmp_path, 9, batch=8).images(stage) for stage in STAGES] == [8, 2]
    assert [Settings(tmp_path, 9, batch=64).images(stage) for stage in STAGES] == [64, 12]
    assert Settings(tmp_path, 9, batch=1).images(STAGES[-1]) == 1
