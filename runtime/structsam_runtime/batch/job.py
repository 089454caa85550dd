"""What is done with a folder of pictures: which pictures, with which model, and where the results go."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from ..digest import sha256
from ..errors import UserError
from ..files import whole_file
from ..manifest import Manifest
from ..pictures import MAX_PIXELS, list_pictures
from ..predict.automatic.generator import SETTINGS, check_side
from ..runners import file_of
from .boxes import Boxes, match, read_boxes

RECORD = "batch.json"
"""Beside the results: what they are made with."""


@dataclass(frozen=True)
class Job:
    """One run over a folder; it travels to other processes and machines, so its paths are absolute.

    Attributes:
        images: the folder of pictures.
        output: the folder of results.
        model: the folder of the export.
        runner: what runs it, as `Predictor.load` takes it.
        boxes: what to segment in every picture; None for everything.
        everything: those of its SETTINGS that are not the defaults of `AutomaticMaskGenerator`.
        embeddings: keep the embedding of every picture too.
        record: what two runs must share for their results to go together.
        verified: as `Predictor.load` takes it.
        max_pixels: a picture with more fails before it is decoded.
    """

    images: Path
    output: Path
    model: Path
    runner: str
    boxes: Boxes | None
    everything: Mapping[str, Any]
    embeddings: bool
    record: Mapping[str, Any]
    verified: bool = True
    max_pixels: int = MAX_PIXELS

    def result(self, image: str) -> Path:
        """The file of a picture's masks. It appears last, and whole."""
        return self.output / f"{image}.json"

    def embedding(self, image: str) -> Path:
        """The file of a picture's embedding, where it is kept."""
        return self.output / f"{image}.npz"

    def state(self, image: str) -> dict[str, int] | None:
        """What tells a picture from another that takes its name later: its size in bytes, and when it was
        written, in nanoseconds since 1970; None where there is no such file."""
        try:
            status = (self.images / image).stat()
        except OSError:
            return None
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def done(self, image: str) -> bool:
        """Whether a picture has a result; see `found`."""
        return self.found(image) is not None

    def found(self, image: str) -> dict[str, Any] | None:
        """A picture's result, if it is there, whole, and of the picture as it is now."""
        result = self.result(image)
        try:
            found = json.loads(result.read_bytes()) if result.is_file() else None
            # A zip file that is cut short is none: what it holds is told at its end.
            kept = not self.embeddings or is_zipfile(self.embedding(image))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or not kept:
            return None
        own = found.get("image") == image and found.get("input") == self.state(image)
        return found if own else None


def plan(
    images: Path,
    output: Path,
    model: Path,
    runner: str = "cpu",
    prompts: Path | None = None,
    everything: Mapping[str, Any] | None = None,
    embeddings: bool = False,
    verified: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Job, list[str]]:
    """A job, and the pictures that it is about; nothing is written yet.

    Args:
        images, output, model, runner, everything, embeddings, verified, max_pixels: see `Job`.
        prompts: a file that `read_boxes` reads: only its pictures, and in them only what is in the boxes.

    Returns:
        The job, and paths within the folder of pictures, with slashes.

    Raises:
        UserError: one of these is not there or is not what it should be, there is no such runner, the prompts
            name a picture that is not there, or the results would lie among the pictures.
    """
    file_of("encoder", runner)
    everything = {"points_per_side": 32, **(everything or {})}
    check_side(everything["points_per_side"])
    names = find_images(images)
    if output.resolve().is_relative_to(images.resolve()):
        raise UserError(f"the output {output} is inside {images}; choose a folder outside")
    boxes = match(read_boxes(prompts), names, prompts, images) if prompts else None
    if boxes is not None:
        names = sorted(boxes)
    record = {
        **_identity(model),
        "prompts": hashlib.sha256(prompts.read_bytes()).hexdigest() if prompts else None,
        **{name: None if prompts else everything.get(name) for name in SETTINGS},
        "embeddings": embeddings,
        "unverified": None if verified else _hashes(model, runner),
    }
    return Job(
        images.resolve(),
        output.resolve(),
        model.resolve(),
        runner,
        boxes,
        everything,
        embeddings,
        record,
        verified,
        max_pixels,
    ), names


def find_images(folder: Path) -> list[str]:
    """All pictures below a folder: paths within it, with slashes, sorted. What is skipped is said on stderr.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    listing = list_pictures(folder)
    if not listing.pictures:
        raise UserError(f"no picture in {folder}; expected files named .jpg, .png, .tif, .webp ...")
    listing.say()
    return listing.pictures


def _identity(model: Path) -> dict[str, str | None]:
    """Name and hashes of an export. Its engines are made from the ONNX files that these are of."""
    manifest = Manifest.read(model)
    hashes = {name: file.sha256 for name, file in manifest.files.items() if ".onnx" in name}
    return {"model": manifest.name, **hashes}


def _hashes(model: Path, runner: str) -> dict[str, str]:
    """Of the files as they are, which the manifest does not say where they were changed."""
    files = (file_of(part, runner) for part in ("encoder", "decoder"))
    return {name: sha256(model / name) for name in files if (model / name).is_file()}


def begin(job: Job) -> None:
    """Make the folder of results and note in it what they are made with, or find the same noted there.

    Raises:
        UserError: it was begun with another model or other options, holds files that are no results, or
            cannot be written.
    """
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        # Hidden files are no results of anybody: a run that was killed at once leaves nothing else.
        seen = {path.name for path in job.output.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise UserError(f"cannot write to {job.output}: {error.strerror}; choose another folder") from error
    if seen and RECORD not in seen:
        raise UserError(f"{job.output} holds files and no {RECORD}; choose a folder of its own for results")
    note(job)
    check(job)


def note(job: Job) -> None:
    """Note beside the results what they are made with, unless it is; someone may have removed the folder.

    Raises:
        UserError: it cannot be written.
    """
    path = job.output / RECORD
    if path.exists():
        return
    with contextlib.suppress(OSError):  # of which writing tells
        job.output.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(job.record, indent=2) + "\n", encoding="utf-8")


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
