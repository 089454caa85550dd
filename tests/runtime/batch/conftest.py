"""Small pictures, and jobs about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structsam_runtime.batch import attempts
from structsam_runtime.batch.job import Job, begin, plan
from structsam_runtime.batch.segment import Outcome

Begin = Callable[..., Job]
READING = """
import os, signal, time
from structsam_runtime.batch import segment
read = segment.read_image
def reading(path, *rest):
    if path.name == {name!r}:
        {statement}
    return read(path, *rest)
segment.read_image = reading
"""


class Death(BaseException):
    """In place of the death of the process, after which nothing can be noted."""


class InWorker:
    """Runs Python where it is unpickled, which is in the processes of a run."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code, {})


@pytest.fixture
def started(tmp_path: Path, export_folder: Path) -> Begin:
    """Begins a job about boxes in pictures of these names; code runs in every worker before anything else."""

    def begun(*names: str, code: str = "", **options: Any) -> Job:
        for number, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        prompts = tmp_path / "boxes.json"
        prompts.write_text(json.dumps({name: {"boxes": [[5, 6, 40, 30]]} for name in names}))
        job, _ = plan(tmp_path / "images", tmp_path / "masks", export_folder, prompts=prompts, **options)
        begin(job)
        if code:
            # None where it is unpickled, as where the folder of results is asked what it says of it.
            return Job(**{**vars(job), "record": {**job.record, "code": InWorker(code)}})
        return job

    return begun


@pytest.fixture
def reading() -> Callable[[str, str], str]:
    """The code for `started` of a statement that is executed where a file of this name is read."""
    return lambda name, statement: READING.format(name=name, statement=statement)


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job, str, int], None]:
    """Begins a picture a number of times and never ends it."""

    def dead(_: str) -> Outcome:
        raise Death

    def call(job: Job, image: str, times: int = 1) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(attempts, "forget", lambda *_: None)
            for _ in range(times):
                with pytest.raises(Death):
                    attempts.attempt(job, image, dead)

    return call
