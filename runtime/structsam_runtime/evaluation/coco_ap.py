"""Average precision as COCO defines it, over masks (paper, Table 2)."""

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
    """A mask as run lengths, small enough to keep those of thousands of pictures.

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
        category: number of its class.
        mask: from :func:`encode`. Its pixels are the object's area, also where a file of COCO states another.
        crowd: the mask covers many objects: nothing has to be found there and nothing found there is wrong.
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
        score: predictions are ranked by it, over all pictures; any finite number. SAM gives no class scores:
            it is the decoder's predicted IoU.
    """

    image: str
    category: int
    mask: Rle
    score: float


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's summary, each in 0..1, or nan where there is no such object in the ground truth.

    Args:
        ap: mean over the IoU thresholds 0.50, 0.55 ... 0.95.
        ap50: at the threshold 0.50.
        ap75: at the threshold 0.75.
        small: as ``ap``, for objects of up to 32 x 32 pixels (APs).
        medium: from there to 96 x 96 pixels (APm).
        large: from there on (APl).
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float


def average_precision(truths: Sequence[Truth], predictions: Sequence[Prediction]) -> AveragePrecision:
    """AP over all pictures, the mean over the categories that have an object.

    pycocotools does the work, with its settings for masks: of a picture at most 100 predictions of a category
    count. With box prompts every object that is not a crowd gives one prediction, made from its own box and
    with its own category. Such an AP cannot be compared with a detector's, which has to find the objects.

    Predictions of equal score count in the order of their pictures' names, then as they come.

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
    # -1 is pycocotools' way to say that there was no such object.
    return AveragePrecision(*(math.nan if value < 0 else float(value) for value in evaluation.stats[:6]))


def _images(objects: Iterable[Truth | Prediction]) -> list[dict[str, Any]]:
    """COCO's table of pictures."""
    sizes: dict[str, list[int]] = {}
    for one in objects:
        size = one.mask["size"]
        if sizes.setdefault(one.image, size) != size:  # pycocotools would call their IoU -1, and go on
            raise ValueError(f"masks of {sizes[one.image]} and of {size} for the picture {one.image}")
    return [{"id": image, "height": height, "width": width} for image, (height, width) in sizes.items()]


def _coco(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    objects: Iterable[tuple[Truth | Prediction, dict[str, Any]]],
) -> COCO:
    """COCO's tables of pictures, categories and objects, for the ground truth or for the predictions."""
    annotations = [
        {
            "id": number,  # from 1: pycocotools takes a match with the object 0 for no match
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
