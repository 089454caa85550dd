"""A folder of pictures segmented, one file of masks for each."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import UserError
from ..files import whole_file
from ..predict.automatic.generator import AutomaticMaskGenerator
from ..predict.embedding import Embedding
from ..predict.image import read_image
from ..predict.predictor import Predictor
from .boxes import sound_boxes, told
from .job import Job, check

ERRORS = "errors.jsonl"
"""Beside the results: pictures that have none, and why."""
BOXES = 64
"""Of one run of the decoder, as many as its engines are built for."""


@dataclass(frozen=True)
class Outcome:
    """A picture that was looked at.

    Attributes:
        image: its path within the folder, with slashes.
        error: why it has no result; None if it has one.
        missed: how many of its boxes have no mask, and why; None if all have one.
    """

    image: str
    error: str | None
    missed: str | None = None


class Segmenter:
    """One open model that looks at picture after picture.

        with Segmenter(job) as segment:
            outcome = segment("holiday/beach.jpg")

    Args:
        job: begun.
        threads: of the CPU, for ONNX Runtime; default as many as there are cores.

    Raises:
        UserError: the model cannot be loaded or, on entering the ``with`` block, opened; or the results were
            not begun with this job.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        check(job)
        self.job = job
        self._predictor = Predictor.load(job.model, job.runner, threads)
        self._everything = AutomaticMaskGenerator(
            self._predictor, points_per_side=job.points_per_side, output_mode="coco_rle"
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._predictor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, image: str) -> Outcome:
        """Write the result of one picture, unless it is there.

        The embedding is written before the masks, so that where there are masks everything is there.

        Returns:
            An outcome with an error for a picture that cannot be read, or in which a box does not lie.

        Raises:
            UserError: the result cannot be written.
        """
        result = self.job.result(image)
        if result.exists():
            return Outcome(image, None)
        try:
            found, embedding, missed = self._look(image)
        except UserError as error:
            return Outcome(image, str(error))
        try:
            result.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {result}: {error.strerror}") from error
        if embedding:
            embedding.save(result.with_suffix(".npz"))
        with whole_file(result) as part:
            part.write_text(found, encoding="utf-8")
        return Outcome(image, None, missed)

    def _look(self, image: str) -> tuple[str, Embedding | None, str | None]:
        """A picture's masks as JSON, its embedding if it is kept, and which of its boxes have no mask."""
        rgb = read_image(self.job.images / image)
        boxes = None if self.job.boxes is None else self.job.boxes[image]
        if boxes or self.job.embeddings:
            self._predictor.set_image(rgb)
        embedding = self._predictor.embedding if self.job.embeddings else None
        sound, errors = sound_boxes(boxes, self._predictor.frame) if boxes else ([], {})
        masks = self._everything.generate(rgb, embedding) if boxes is None else self._inside(sound)
        found = {"image": image, "height": rgb.shape[0], "width": rgb.shape[1], "masks": masks}
        if errors:
            found["errors"] = [{"box": number, "error": error} for number, error in errors.items()]
        try:
            return json.dumps(found, allow_nan=False), embedding, told(errors, boxes or [])
        except ValueError as error:
            raise UserError(f"the model gives NaN or infinity for {image}") from error

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


def run(job: Job, images: Iterable[str]) -> Iterator[Outcome]:
    """Segment pictures one after another, in this process.

    Raises:
        UserError: as `Segmenter`; what is done by then stays.
    """
    with Segmenter(job) as segment:
        yield from map(segment, images)


def note_errors(job: Job, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes of pictures without a result beside the results; no file where there are none."""
    path = job.output / ERRORS
    lines = [json.dumps(asdict(outcome)) + "\n" for outcome in outcomes if outcome.error]
    if not lines:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part:
        part.write_text("".join(lines), encoding="utf-8")
