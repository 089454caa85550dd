"""A picture that its process dies of is tried a few times and then left, in this run and in those after it.

While a picture is worked on, a hidden file in the folder of results has a line for each time it was begun. It
is removed when the work ends, well or not; only the death of the process leaves it. Whoever comes next, a
worker that takes the place of the dead one or a rerun, counts the lines.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from .job import Job, note
from .segment import Outcome

ATTEMPTS = 3
"""Processes that may die of one picture."""


def attempt(job: Job, image: str, segment: Callable[[str], Outcome]) -> Outcome:
    """Work on a picture, unless it is done, or ATTEMPTS processes have died while they did.

    Args:
        job: begun.
        image: path within the folder of pictures.
        segment: does the work.

    Raises:
        UserError: the folder of results cannot be written; or of `segment`.
    """
    if job.done(image):
        return Outcome(image)
    note(job)
    path, line = _path(job, image), _line(job, image)
    if _count(path, line) >= ATTEMPTS:
        return Outcome(
            image,
            "process",
            f"{ATTEMPTS} processes died while they worked on it, of a crash or for want of memory; "
            f"remove {path} to try again",
        )
    try:
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(line)  # where this cannot be written, the result cannot, and that is told
        return segment(image)
    finally:
        forget(job, image)


def deaths(job: Job, image: str) -> int:
    """How many processes have died, or are at work now, on a picture as it is."""
    return _count(_path(job, image), _line(job, image))


def forget(job: Job, image: str) -> None:
    """A picture whose process did not die of it, but ended well or was told to end."""
    with contextlib.suppress(OSError):
        _path(job, image).unlink()


def _path(job: Job, image: str) -> Path:
    token = hashlib.blake2b(os.fsencode(image), digest_size=12).hexdigest()
    return job.output / f".{token}.attempts"


def _line(job: Job, image: str) -> str:
    """Another one when the picture has changed: what was counted for the old one is not counted for it."""
    return json.dumps({"image": image, "input": job.state(image)}) + "\n"


def _count(path: Path, line: str) -> int:
    try:
        return path.read_text(encoding="utf-8").count(line)
    except (OSError, ValueError):
        return 0
