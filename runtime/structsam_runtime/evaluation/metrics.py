"""Metrics of two masks: IoU, Dice and Boundary IoU; and confidence intervals of their means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, minimum_filter
from scipy.stats import bootstrap

DILATION_RATIO = 0.02  # of the diagonal, as in Cheng et al. 2021
RESAMPLES = 9999


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of each pair of masks.

    With ground truth, the plain mean over masks is mIoU (paper, section 5.1). Between the masks of the merged
    and the unmerged model, the same mean is the agreement, which needs no ground truth.

    Args:
        a: bool [..., H, W].
        b: bool, same shape as `a`. The metric is symmetric.

    Returns:
        float64 [...], in [0, 1]; 1 for two empty masks, 0 if only one of them is empty.

    Raises:
        ValueError: the masks are not bool, or their shapes differ.
    """
    both, total = _count(a, b)
    return _share(both, total - both)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Dice score of each pair of masks (paper, Table 1): twice the intersection over the sum of both areas.

    Arguments, result, empty masks and errors as in :func:`iou`; dice = 2 iou / (1 + iou).
    """
    both, total = _count(a, b)
    return _share(2 * both, total)


def boundary_iou(
    a: NDArray[np.bool_], b: NDArray[np.bool_], dilation_ratio: float = DILATION_RATIO
) -> NDArray[np.float64]:
    """Boundary IoU (Cheng et al. 2021): IoU of the two masks' bands along their boundaries.

    We take the paper's Boundary mIoU (section 5.1; b-mIoU in Table 3) as the plain mean of this over masks;
    the paper does not define the average.

    Arguments, result and errors as in :func:`iou` and :func:`boundary`. The band is empty only if the mask
    is, so empty masks count as in :func:`iou`.
    """
    return iou(boundary(a, dilation_ratio), boundary(b, dilation_ratio))


def boundary(mask: NDArray[np.bool_], dilation_ratio: float = DILATION_RATIO) -> NDArray[np.bool_]:
    """The pixels of a mask within d pixels of its boundary (Cheng et al. 2021).

    That is the mask minus its erosion by d iterations of a 3 x 3 square. Outside of the picture the mask is
    empty: an object that is cut off by the picture's border has a boundary there.

    Args:
        mask: bool [..., H, W].
        dilation_ratio: d as a share of the picture's diagonal; d is rounded to whole pixels, half to even,
            and is at least 1.

    Returns:
        bool [..., H, W].

    Raises:
        ValueError: the mask is not bool, or has no pixels.
    """
    _require_bool(mask)
    distance = max(1, round(dilation_ratio * math.hypot(*mask.shape[-2:])))
    band = np.zeros_like(mask)
    for index in np.ndindex(mask.shape[:-2]):
        # As numbers, the mask is one labelled object; an empty mask has none. Restricting the filter to the
        # object's bounding box is exact: everything outside is no mask, as the filter assumes.
        for box in find_objects(mask[index].view(np.uint8)):
            inside = mask[index][box]
            band[index][box] = inside & ~_erode(inside, distance)
    return band


def _erode(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """``distance`` erosions of a mask [H, W] by a 3 x 3 square in one step; outside is no mask.

    A pixel is kept by n + 1 erosions if its 3 x 3 neighbours are all kept by n. By induction it is kept by n
    if the square of side 2n + 1 around it is all mask: a minimum over rows, then over columns, at a cost that
    does not depend on n.
    """
    eroded: NDArray[np.bool_] = minimum_filter(mask, 2 * distance + 1, mode="constant", cval=0)
    return eroded


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def interval(values: NDArray[np.float64], pictures: Sequence[str], level: float = 0.95) -> Interval:
    """The plain mean of values, and a bootstrap confidence interval with pictures as resampling units.

    Prompts on one picture share its embedding and are not independent: resampling prompts would usually give
    too narrow an interval. Percentile bootstrap with a fixed seed, so equal values give equal intervals. To
    compare two models on the same prompts, pass the differences of their values: the difficulty of a prompt
    that both models share then cancels.

    Args:
        values: float [P], finite, one for each prompt.
        pictures: [P] the name of each prompt's picture.
        level: confidence level, in (0, 1).

    Returns:
        The mean and its interval. Both bounds are nan for a single picture.

    Raises:
        ValueError: there are no values, some are not finite, the lengths differ, or `level` is out of range.
    """
    if values.shape != (len(pictures),) or not len(values):
        raise ValueError(f"values {list(values.shape)} of {len(pictures)} prompts, expected one for each")
    if not np.isfinite(values).all():
        raise ValueError("some values are not finite")
    if not 0 < level < 1:
        raise ValueError(f"a confidence level of {level}, expected a number between 0 and 1")
    names, picture = np.unique(pictures, return_inverse=True)
    if len(names) == 1:
        return Interval(float(values.mean()), math.nan, math.nan)
    ends = bootstrap(
        (np.bincount(picture, weights=values), np.bincount(picture)),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,  # sum and count of a picture stay together
        vectorized=True,
        confidence_level=level,
        method="percentile",  # the default, BCa, is undefined if all values are equal
        n_resamples=RESAMPLES,
        batch=100,  # all resamples at once would need gigabytes for thousands of pictures
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(values.mean()), float(ends.low), float(ends.high))


def _count(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of pixels in both masks [...], and the sum of the pixels of each mask [...]."""
    _require_bool(a)
    _require_bool(b)
    if a.shape != b.shape:  # NumPy would broadcast some shapes
        raise ValueError(f"masks of shapes {list(a.shape)} and {list(b.shape)}, expected the same")
    both, in_a, in_b = (np.asarray(mask.sum(axis=(-2, -1), dtype=np.int64)) for mask in (a & b, a, b))
    return both, in_a + in_b


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, and 1 if both are 0."""
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))


def _require_bool(mask: NDArray[np.bool_]) -> None:
    if mask.dtype != np.bool_:  # bytes or logits would give wrong numbers without an error
        raise ValueError(f"a mask of {mask.dtype}, expected bool")
