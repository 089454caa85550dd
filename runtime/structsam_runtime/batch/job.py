"""What is done with a folder of pictures: which pictures, with which model, and where the results go."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import whole_file
from ..manifest import Manifest
from ..predict.image import PICTURES
from ..runners import file_of

RECORD = "batch.json"
"""Beside the results: what they are made with."""

Boxes = Mapping[str, Sequence[Sequence[float]]]
"""Picture -> its boxes x0, y0, x1, y1, in pixels of the picture."""


@dataclass(frozen=True)
class Job:
    """One run over a folder; it travels to other processes and machines, so its paths are absolute.

    Attributes:
        images: the folder of pictures.
        output: the folder of results.
        model: the folder of the export.
        runner: what runs it, as `Predictor.load` takes it.
        boxes: what to segment in every picture; None for everything.
        points_per_side: of everything mode.
        embeddings: keep the embedding of every picture too.
        record: what two runs must share for their results to go together.
    """

    images: Path
    output: Path
    model: Path
    runner: str
    boxes: Boxes | None
    points_per_side: int
    embeddings: bool
    record: Mapping[str, Any]

    def result(self, image: str) -> Path:
        """The file of a picture's masks. It appears last and whole: a picture that has one is done."""
        return self.output / f"{image}.json"


def plan(
    images: Path,
    output: Path,
    model: Path,
    runner: str = "cpu",
    prompts: Path | None = None,
    points_per_side: int = 32,
    embeddings: bool = False,
) -> tuple[Job, list[str]]:
    """A job, and the pictures that it is about; nothing is written yet.

    Args:
        images, output, model, runner, points_per_side, embeddings: see `Job`.
        prompts: a file that `read_boxes` reads: only its pictures, and in them only what is in the boxes.

    Returns:
        The job, and paths within the folder of pictures, with slashes.

    Raises:
        UserError: one of these is not there or is not what it should be, there is no such runner, the prompts
            name a picture that is not there, or the results would lie among the pictures.
    """
    file_of("encoder", runner)
    names = find_images(images)
    if output.resolve().is_relative_to(images.resolve()):
        raise UserError(f"the output {output} is inside {images}; choose a folder outside")
    boxes = read_boxes(prompts) if prompts else None
    if boxes is not None:
        absent = sorted(boxes.keys() - set(names))
        if absent:
            raise UserError(
                f"{prompts} names {len(absent)} pictures that {images} lacks, such as {absent[0]}"
            )
        names = sorted(boxes)
    record = {
        **_identity(model),
        "prompts": hashlib.sha256(prompts.read_bytes()).hexdigest() if prompts else None,
        "points_per_side": None if prompts else points_per_side,
        "embeddings": embeddings,
    }
    return Job(
        images.resolve(),
        output.resolve(),
        model.resolve(),
        runner,
        boxes,
        points_per_side,
        embeddings,
        record,
    ), names


def find_images(folder: Path) -> list[str]:
    """All pictures below a folder but hidden ones: paths within it, with slashes, sorted.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected one with pictures")
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    names = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise UserError(f"no picture in {folder}; expected {', '.join(sorted(PICTURES))}")
    return sorted(names)


def read_boxes(path: Path) -> Boxes:
    """Read ``{"name.jpg": {"boxes": [[x0, y0, x1, y1], ...]}, ...}``; names are paths within the folder.

    Whether a box lies in its picture is seen when that is read.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; expected boxes as JSON") from error
    except (OSError, ValueError) as error:  # bad UTF-8 and bad JSON are both a ValueError
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is no JSON object of pictures and their boxes")
    return {name: _boxes(asked, name, path) for name, asked in content.items()}


def _boxes(asked: Any, name: str, path: Path) -> list[list[float]]:
    boxes = asked.get("boxes") if isinstance(asked, dict) and len(asked) == 1 else None
    if not isinstance(boxes, list) or not all(_is_box(box) for box in boxes):
        raise UserError(
            f'{path} has {json.dumps(asked):.60} for {name}, expected {{"boxes": [[x0, y0, x1, y1], ...]}}'
        )
    return boxes


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(place) in (int, float) for place in box)


def _identity(model: Path) -> dict[str, str | None]:
    """Name and hashes of an export. Its engines are made from the ONNX files that these are of."""
    manifest = Manifest.read(model)
    hashes = {name: file.sha256 for name, file in manifest.files.items() if ".onnx" in name}
    return {"model": manifest.name, **hashes}


def begin(job: Job) -> None:
    """Make the folder of results and note in it what they are made with, or find the same noted there.

    Raises:
        UserError: it was begun with another model or other options, holds files that are no results, or
            cannot be written.
    """
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        begun = (job.output / RECORD).exists()
        strangers = not begun and any(job.output.iterdir())
    except OSError as error:
        raise UserError(f"cannot write to {job.output}: {error.strerror}; choose another folder") from error
    if strangers:
        raise UserError(f"{job.output} holds files and no {RECORD}; choose a folder of its own for results")
    if not begun:
        with whole_file(job.output / RECORD) as part:
            part.write_text(json.dumps(job.record, indent=2) + "\n", encoding="utf-8")
    check(job)


def check(job: Job) -> None:
    """Check that the folder of results was begun with this job's model and options, as seen from here.

    On another machine this is how a folder shows itself that is not shared, or not the same.

    Raises:
        UserError: it was not.
    """
    path = job.output / RECORD
    try:
        noted = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}, which says what the results are made with, cannot be read: {error}"
        ) from error
    for what, now in {**job.record, **_identity(job.model)}.items():
        if noted.get(what) != now:
            raise UserError(
                f"{job.output} was begun with {what} {noted.get(what)}, not {now}; choose another folder"
            )
