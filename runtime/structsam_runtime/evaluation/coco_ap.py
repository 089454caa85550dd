"""COCO average precision of masks (paper, Table 2)."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as run_lengths
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Rle = Mapping[str, Any]  # pycocotools' run lengths: "size" [H, W] and "counts", compressed


def encode(mask: NDArray[np.bool_]) -> Rle:
    """A mask as COCO's compressed run lengths.

    Args:
        mask: bool [H, W].

    Raises:
        ValueError: the mask is not bool, or not [H, W].
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"a mask of {mask.dtype} {list(mask.shape)}, expected bool [H, W]")
    rle: Rle = run_lengths.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle


@dataclass(frozen=True)
class Truth:
    """One object of the ground truth.

    Args:
        image: name of its picture.
        category: id of its class.
        mask: from :func:`encode`. Its number of pixels is the object's area, even if an annotation file has
            another value.
        crowd: the mask covers many objects: a missing prediction there is not an error, nor is a prediction.
    """

    image: str
    category: int
    mask: Rle
    crowd: bool = False


@dataclass(frozen=True)
class Prediction:
    """One predicted object.

    Args:
        image: as in :class:`Truth`.
        category: as in :class:`Truth`.
        mask: from :func:`encode`.
        score: any finite number, by which predictions of all pictures are ranked. SAM has no class scores:
            this is the decoder's predicted IoU.
    """

    image: str
    category: int
    mask: Rle
    score: float


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's summary, each in [0, 1], or nan if the ground truth has no such object.

    Args:
        ap: mean over the IoU thresholds 0.50, 0.55 ... 0.95.
        ap50: at the threshold 0.50.
        ap75: at the threshold 0.75.
        small: as ``ap``, for objects with an area of up to 32 x 32 pixels (APs).
        medium: as ``ap``, for areas from 32 x 32 to 96 x 96 pixels (APm).
        large: as ``ap``, for larger areas (APl).
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float


def average_precision(truths: Sequence[Truth], predictions: Sequence[Prediction]) -> AveragePrecision:
    """AP over all pictures, as the mean over the categories that have an object.

    Computed by pycocotools with its settings for masks: at most 100 predictions per picture and category are
    counted. With box prompts every object that is not a crowd has one prediction, from its own box and with
    its own category. This AP is not comparable with that of a detector, which has to find the objects.

    Predictions of equal score are ordered by the names of their pictures, then by their order in the input.

    Raises:
        ValueError: masks of one picture differ in size, or a score is not finite.
    """
    if not all(math.isfinite(prediction.score) for prediction in predictions):
        raise ValueError("some scores are not finite")
    images = _images([*truths, *predictions])
    categories = [{"id": number} for number in sorted({truth.category for truth in truths})]
    with redirect_stdout(io.StringIO()):  # pycocotools reports its steps
        evaluation = COCOeval(
            _coco(images, categories, [(truth, {"iscrowd": int(truth.crowd)}) for truth in truths]),
            _coco(images, categories, [(one, {"iscrowd": 0, "score": one.score}) for one in predictions]),
            "segm",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools returns -1 if there is no such object.
    return AveragePrecision(*(math.nan if value < 0 else float(value) for value in evaluation.stats[:6]))


def _images(objects: Iterable[Truth | Prediction]) -> list[dict[str, Any]]:
    """The `images` of a COCO dataset.

    Raises:
        ValueError: masks of one picture differ in size.
    """
    sizes: dict[str, list[int]] = {}
    for one in objects:
        size = one.mask["size"]
        if sizes.setdefault(one.image, size) != size:  # pycocotools would return an IoU of -1 silently
            raise ValueError(f"masks of {sizes[one.image]} and of {size} for the picture {one.image}")
    return [{"id": image, "height": height, "width": width} for image, (height, width) in sizes.items()]


def _coco(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    objects: Iterable[tuple[Truth | Prediction, dict[str, Any]]],
) -> COCO:
    """A COCO dataset of the ground truth or of the predictions."""
    annotations = [
        {
            "id": number,  # from 1: pycocotools treats a match with id 0 as no match
            "image_id": one.image,
            "category_id": one.category,
            "segmentation": one.mask,
            "area": int(run_lengths.area(one.mask)),
            **more,
        }
        for number, (one, more) in enumerate(objects, 1)
    ]
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
