"""How well two masks agree: IoU, Dice and Boundary IoU; and how far their mean can be trusted."""

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
    """Pixels in both masks over pixels in either, for each pair of masks.

    Against ground truth the plain mean over masks is mIoU (paper, section 5.1). Between the masks of the
    merged and of the unmerged model the same mean is the agreement, which needs no ground truth.

    Args:
        a: bool [..., H, W].
        b: bool, of the same shape. The order of the two does not matter.

    Returns:
        float64 [...], range 0..1. Two empty masks agree: 1. If only one of them is empty: 0.

    Raises:
        ValueError: the masks are not bool, or their shapes differ.
    """
    both, total = _count(a, b)
    return _share(both, total - both)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Twice the pixels in both masks over the sum of the masks' pixels (paper, Table 1).

    Arguments, result, empty masks and errors as in :func:`iou`; dice = 2 iou / (1 + iou).
    """
    both, total = _count(a, b)
    return _share(2 * both, total)


def boundary_iou(
    a: NDArray[np.bool_], b: NDArray[np.bool_], dilation_ratio: float = DILATION_RATIO
) -> NDArray[np.float64]:
    """IoU of the two masks' bands along their boundaries: Boundary IoU, Cheng et al. 2021.

    The paper's Boundary mIoU (section 5.1; b-mIoU in Table 3) is taken as the plain mean of this over masks.
    The paper does not spell its average out: this is our reading.

    Arguments, result and errors as in :func:`iou` and :func:`boundary`. The band of a mask is empty only if
    the mask is, so that empty masks count as in :func:`iou`.
    """
    return iou(boundary(a, dilation_ratio), boundary(b, dilation_ratio))


def boundary(mask: NDArray[np.bool_], dilation_ratio: float = DILATION_RATIO) -> NDArray[np.bool_]:
    """The pixels of a mask that lie within d pixels of its boundary (Cheng et al. 2021).

    That is the mask without its erosion by d iterations of a 3 x 3 square. Outside of the picture there is no
    mask: where an object is cut off by the picture's border, it has a boundary.

    Args:
        mask: bool [..., H, W].
        dilation_ratio: d over the picture's diagonal; d is rounded to whole pixels, half to even, and is at
            least 1.

    Returns:
        bool [..., H, W].

    Raises:
        ValueError: the mask is not bool, or has no pixels.
    """
    _require_bool(mask)
    distance = max(1, round(dilation_ratio * math.hypot(*mask.shape[-2:])))
    band = np.zeros_like(mask)
    for index in np.ndindex(mask.shape[:-2]):
        # Seen as numbers, the mask is the one labelled object; an empty mask has none. To leave out what lies
        # around its box is exact: all of it is outside of the mask, which is what the filter assumes there.
        for box in find_objects(mask[index].view(np.uint8)):
            inside = mask[index][box]
            band[index][box] = inside & ~_erode(inside, distance)
    return band


def _erode(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """``distance`` erosions of [H, W] by a 3 x 3 square, nothing outside of the picture, in one step.

    A pixel survives n + 1 erosions if its 3 x 3 neighbours all survive n. By induction it survives n if the
    square of side 2n + 1 around it is all mask: a minimum over rows, then over columns, at a cost that does
    not depend on n.
    """
    eroded: NDArray[np.bool_] = minimum_filter(mask, 2 * distance + 1, mode="constant", cval=0)
    return eroded


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def interval(values: NDArray[np.float64], pictures: Sequence[str], level: float = 0.95) -> Interval:
    """The plain mean of values and a bootstrap interval for it, pictures being what is drawn again.

    Prompts on one picture share its embedding and are not independent: to draw single prompts would usually
    give too narrow an interval. Percentile bootstrap with a fixed seed, so that the same values give the same
    interval. To compare two models on the same prompts, give the differences of their values: what makes a
    prompt hard for both then cancels.

    Args:
        values: float [P], finite, one for each prompt.
        pictures: [P] the name of each prompt's picture.
        level: of confidence, between 0 and 1.

    Returns:
        The mean and its interval. Both ends are nan for a single picture, which says nothing about others.

    Raises:
        ValueError: there are no values, some are not finite, the lengths differ, or there is no such level.
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
        paired=True,  # a picture brings its sum and its count along
        vectorized=True,
        confidence_level=level,
        method="percentile",  # the default, BCa, is undefined where all values are equal
        n_resamples=RESAMPLES,
        batch=100,  # all resamples at once would take gigabytes for some thousand pictures
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(values.mean()), float(ends.low), float(ends.high))


def _count(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[...] pixels in both masks, and [...] the sum of the pixels of each."""
    _require_bool(a)
    _require_bool(b)
    if a.shape != b.shape:  # NumPy would broadcast some of them
        raise ValueError(f"masks of shapes {list(a.shape)} and {list(b.shape)}, expected the same")
    both, in_a, in_b = (np.asarray(mask.sum(axis=(-2, -1), dtype=np.int64)) for mask in (a & b, a, b))
    return both, in_a + in_b


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, and 1 where there is nothing at all."""
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))


def _require_bool(mask: NDArray[np.bool_]) -> None:
    if mask.dtype != np.bool_:  # bytes of 255, or logits, would give a number too
        raise ValueError(f"a mask of {mask.dtype}, expected bool")
