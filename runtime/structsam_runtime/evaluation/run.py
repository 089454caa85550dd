"""Evaluate a model: prompt it with the boxes of annotated objects, and compare its masks with them."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pycocotools.mask as run_lengths
from numpy.typing import NDArray

from ..benchmarking.memory import peak_memory
from ..errors import UserError
from ..predict.predictor import Predictor
from .coco_ap import Rle, encode
from .datasets import Annotated, Box, Object
from .metrics import boundary_iou, dice, iou
from .results import UNMERGED, FoundObject, FoundObjects, Results, TrueObject, TrueObjects

PROMPTS = 64
"""Number of boxes in one decoder call."""

Mask = NDArray[np.bool_]


def evaluate(
    model: str, predictor: Predictor, pictures: Iterable[Annotated], results: Results
) -> Iterator[FoundObjects]:
    """Evaluate one model on every picture that it has no results for.

    Args:
        model: name of the model; `UNMERGED` must be evaluated on the same pictures before any other.
        predictor: an open predictor.
        pictures: pictures of one dataset.
        results: existing results are reused; new ones are appended.

    Yields:
        The results of each picture, in order.

    Raises:
        UserError: a picture or its annotation cannot be read, or the annotation has changed since the
            results were started; `UNMERGED` has no results for it; the model returns NaN or infinity.
    """
    truths, done = results.truth(), results.found(model)
    unmerged = done if model == UNMERGED else results.found(UNMERGED)
    for picture in pictures:
        if picture.name in done and picture.name in truths:
            yield done[picture.name]
            continue
        objects = picture.objects()
        truth = _truth(picture.name, objects)
        if picture.name not in truths:
            results.add_truth(truth)
        elif truth != truths[picture.name]:
            raise UserError(
                f"the annotation of {picture.name} has changed since the results in {results.folder}; "
                "choose another --output"
            )
        prompts = [(one.mask, one.box) for one in objects if not one.crowd and one.box is not None]
        agreed = None if model == UNMERGED else _masks(unmerged, picture.name)
        found = look(picture, predictor, prompts, agreed)
        if not all(math.isfinite(one.score) for one in found.objects):
            raise UserError(f"{model} returns NaN or infinity for {picture.name}; its results are not stored")
        results.add(model, found)
        yield found


def look(
    picture: Annotated,
    predictor: Predictor,
    prompts: Sequence[tuple[Mask, Box]],
    unmerged: Sequence[str] | None,
) -> FoundObjects:
    """Evaluate one picture: encode it, predict a mask for every box, compare. Without a box nothing runs.

    A prompt-aware encoder runs again for every box.

    Args:
        picture: the picture with its annotation.
        predictor: an open predictor.
        prompts: mask bool [H, W] and box (x0, y0, x1, y1) in pixels of each object.
        unmerged: run lengths of the unmerged model's masks for the same boxes; None if this is the unmerged
            model.
    """
    if not prompts:
        return FoundObjects(picture.name, None, None, ())
    image = picture.image()
    with peak_memory() as peak:
        start = time.perf_counter()
        predictor.set_image(image)
        if predictor.model.prior:
            predictor.get_image_embedding()  # without prompts; the latency is the same
        seconds = time.perf_counter() - start
    found: list[FoundObject] = []
    together = 1 if predictor.model.prior else PROMPTS
    for first in range(0, len(prompts), together):
        boxes = [box for _, box in prompts[first : first + together]]
        made, scores, _ = predictor.predict(box=boxes, multimask_output=False)
        for mask, score in zip(made[:, 0], scores[:, 0], strict=True):
            index = len(found)
            other = None if unmerged is None else unmerged[index]
            found.append(_compare(mask, float(score), prompts[index][0], other))
    return FoundObjects(picture.name, round(seconds, 6), peak[0] if peak else None, tuple(found))


def _compare(mask: Mask, score: float, truth: Mask, unmerged: str | None) -> FoundObject:
    """Compare a mask [H, W] with the annotated mask, and with the unmerged model's mask in run lengths."""
    rle = encode(mask)
    return FoundObject(
        mask=rle["counts"].decode(),
        score=score,
        iou=float(iou(mask, truth)),
        boundary_iou=float(boundary_iou(mask, truth)),
        dice=float(dice(mask, truth)),
        agreement=1.0 if unmerged is None else agreement(rle, {**rle, "counts": unmerged.encode()}),
    )


def agreement(a: Rle, b: Rle) -> float:
    """`metrics.iou` of two masks in run lengths, computed without decoding them; in [0, 1]."""
    if not run_lengths.area(a) and not run_lengths.area(b):
        return 1.0
    return float(run_lengths.iou([a], [b], [False])[0, 0])


def _truth(picture: str, objects: Sequence[Object]) -> TrueObjects:
    """The annotation in the form of `truth.jsonl`. Its size is that of the masks; the picture is not read."""
    listed = tuple(
        TrueObject(o.category, encode(o.mask)["counts"].decode(), o.crowd, empty=not o.mask.any())
        for o in objects
    )
    sizes = [(one.mask.shape[0], one.mask.shape[1]) for one in objects]
    return TrueObjects(picture, sizes[0] if sizes else None, listed)


def _masks(unmerged: Mapping[str, FoundObjects], picture: str) -> list[str]:
    """Run lengths of the unmerged model's masks."""
    if picture not in unmerged:
        raise UserError(f"the unmerged model has no results for {picture}; evaluate it first")
    return [one.mask for one in unmerged[picture].objects]
