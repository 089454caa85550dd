"""A folder of pictures segmented, one file of masks for each."""

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import check_output, whole_file
from ..pictures import Once, read_image
from ..predict.automatic.generator import AutomaticMaskGenerator
from ..predict.embedding import Embedding
from ..predict.predictor import Predictor
from .boxes import sound_boxes, told
from .job import Job, check, note

ERRORS = "errors.jsonl"
"""Beside the results: pictures that have none, and why."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the system says about a disk, and not about a file."""
BOXES = 64
"""Of one run of the decoder, as many as its engines are built for."""


Stage = Literal["read", "segment", "write", "process"]
"""Where a picture fails: its file, its masks, its result, or the process that works on it."""


@dataclass(frozen=True)
class Outcome:
    """A picture that was looked at.

    Attributes:
        image: its path within the folder, with slashes.
        stage: where it failed; None if it has a result.
        error: why it has no result, in one line; None if it has one.
        missed: how many of its boxes have no mask, and why; None if all have one.
        empty: everything was looked for in it now, and nothing found.
    """

    image: str
    stage: Stage | None = None
    error: str | None = None
    missed: str | None = None
    empty: bool = False


class Segmenter:
    """One open model that looks at picture after picture.

        with Segmenter(job) as segment:
            outcome = segment("holiday/beach.jpg")

    Args:
        job: begun.
        threads: of the CPU, for runners on it; default as many as there are cores.

    Raises:
        UserError: the model cannot be loaded or, on entering the ``with`` block, opened; or the results were
            not begun with this job.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        check(job)
        self.job = job
        self._predictor = Predictor.load(job.model, job.runner, threads, verified=job.verified)
        self._everything = AutomaticMaskGenerator(self._predictor, output_mode="coco_rle", **job.everything)
        self._note = Once()
        self._stack = ExitStack()

    def __enter__(self) -> "Segmenter":
        self._stack.enter_context(self._predictor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, image: str) -> Outcome:
        """Write the result of one picture.

        Whatever goes wrong with a picture is its outcome, and the next one can be looked at.

        Raises:
            UserError: the disk is full or can no longer be written, which no other picture would survive.
        """
        stage: Stage = "write"  # of which a part comes first: for a name that is too long nothing is computed
        try:
            self._make_room(image)
            stage = "read"
            state = self.job.state(image)
            rgb = read_image(self.job.images / image, self.job.max_pixels, self._note)
            stage = "segment"
            found, embedding, missed = self._look(image, rgb)
            content = _as_json({"image": image, "input": state, **found})
            stage = "write"
            self._make_room(image)  # which somebody may have removed meanwhile
            if embedding:  # first, so that where there are masks everything is there
                embedding.save(self.job.embedding(image))
            with whole_file(self.job.result(image)) as part:
                part.write_text(content, encoding="utf-8")
        except Exception as error:  # libraries raise what they like about a picture
            if stage == "write" and _cause(error) in FULL:
                raise UserError(_line(error)) from error
            return Outcome(image, stage, _line(error))
        return Outcome(image, missed=missed, empty=self.job.boxes is None and not found["masks"])

    def _make_room(self, image: str) -> None:
        """The folder of a picture's result, in which it can be written."""
        result = self.job.result(image)
        try:
            result.parent.mkdir(parents=True, exist_ok=True)
            check_output(result)
        except OSError as error:
            raise UserError(f"cannot write {result}: {error.strerror}") from error

    def _look(
        self, image: str, rgb: NDArray[np.uint8]
    ) -> tuple[dict[str, Any], Embedding | None, str | None]:
        """What is found in a picture, uint8 [H, W, 3], its embedding if it is kept, and which of its boxes
        have no mask."""
        boxes = None if self.job.boxes is None else self.job.boxes[image]
        if boxes or self.job.embeddings:
            self._predictor.set_image(rgb)
        embedding = self._predictor.embedding if self.job.embeddings else None
        sound, errors = sound_boxes(boxes, self._predictor.frame) if boxes else ([], {})
        masks = self._everything.generate(rgb, embedding) if boxes is None else self._inside(sound)
        found: dict[str, Any] = {"height": rgb.shape[0], "width": rgb.shape[1], "masks": masks}
        if errors:
            found["errors"] = [{"box": number, "error": error} for number, error in errors.items()]
        return found, embedding, told(errors, boxes or [])

    def _inside(self, boxes: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        """One mask for each box of the picture that is set."""
        from pycocotools.mask import encode

        found = []
        for first in range(0, len(boxes), BOXES):
            asked = boxes[first : first + BOXES]
            masks, qualities, _ = self._predictor.predict(box=asked, multimask_output=False)
            for box, mask, quality in zip(asked, masks[:, 0], qualities[:, 0], strict=True):
                lengths = encode(np.asfortranarray(mask, dtype=np.uint8))
                found.append(
                    {
                        "segmentation": {"size": lengths["size"], "counts": lengths["counts"].decode()},
                        "area": int(mask.sum()),
                        "predicted_iou": float(quality),
                        "box": list(box),
                    }
                )
        return found


def _as_json(found: Mapping[str, Any]) -> str:
    try:
        return json.dumps(found, allow_nan=False)
    except ValueError as error:
        raise UserError(f"the model gives NaN or infinity for {found['image']}") from error


def _cause(error: BaseException) -> int | None:
    """The system's number of what went wrong, where it was the system."""
    cause = error.__cause__ or error
    return cause.errno if isinstance(cause, OSError) else None


def _line(error: Exception) -> str:
    """One line for what a picture fails of; errors that are not ours need their kind to be understood."""
    if isinstance(error, UserError):
        return str(error)
    return str(UserError(": ".join(filter(None, (type(error).__name__, str(error))))))


def earlier(job: Job, found: Mapping[str, Any]) -> Outcome:
    """The outcome of a picture when its result was made, which `Job.found` gives."""
    image = found["image"]
    errors = {one["box"]: one["error"] for one in found.get("errors", [])}
    return Outcome(image, missed=told(errors, job.boxes[image]) if job.boxes else None)


def note_errors(job: Job, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes of pictures without a result beside the results; no file where there are none."""
    path = job.output / ERRORS
    failed = (outcome for outcome in outcomes if outcome.error)
    lines = [
        json.dumps({"image": one.image, "stage": one.stage, "error": one.error}) + "\n" for one in failed
    ]
    if not lines:
        with suppress(OSError):
            path.unlink()
        return
    note(job)
    with whole_file(path) as part:
        part.write_text("".join(lines), encoding="utf-8")
