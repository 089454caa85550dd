"""The decoder's small masks -> masks of the picture's size."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..manifest import Upscaling
from .image import Frame

EDGE = np.float32(2**-24)
"""The nearest that an upscaled probability comes to 0 and to 1, so that its logit is finite."""


def upscale(
    low_res: NDArray[np.float32], frame: Frame, upscaling: Upscaling = "logits"
) -> NDArray[np.float32]:
    """Logits at the picture's size: up to the model's square, padding cut off, then to the picture.

    Both steps are bilinear, half-pixel centred and without antialiasing. Such a step is linear and acts on
    rows and columns apart, so that the two steps and the cut between them are one small matrix for each axis,
    and a mask is ``rows @ mask @ columns.T``. MedSAM's masks are interpolated as probabilities, in one step
    from the decoder's size to the picture's.

    Args:
        low_res: float32 [P, M, h, w] logits (any leading axes), h = w = 256 for SAM.
        frame: of the picture.
        upscaling: of the model.

    Returns:
        float32 [P, M, H, W] logits.
    """
    result = np.empty((*low_res.shape[:-2], frame.height, frame.width), np.float32)
    for index, values in _each(low_res, frame, upscaling):
        result[index] = _logits(values, upscaling)
    return result


def binary(
    low_res: NDArray[np.float32], frame: Frame, threshold: float, upscaling: Upscaling = "logits"
) -> NDArray[np.bool_]:
    """``upscale(low_res, frame) > threshold``, with the logits of one mask at a time in memory.

    Args:
        low_res: float32 [P, M, h, w] logits (any leading axes).
        frame: of the picture.
        threshold: logit above which a pixel belongs to the mask.
        upscaling: of the model.

    Returns:
        bool [P, M, H, W].
    """
    result = np.empty((*low_res.shape[:-2], frame.height, frame.width), np.bool_)
    level = _values(np.array(threshold, np.float32), upscaling)
    for index, values in _each(low_res, frame, upscaling):
        np.greater(values, level, out=result[index])
    return result


def upscale_above(
    low_res: NDArray[np.float32], frame: Frame, level: float, upscaling: Upscaling = "logits"
) -> tuple[NDArray[np.float32], int, int]:
    """The part of one upscaled mask outside of which no logit exceeds ``level``.

    Most masks of a large photograph are small, and cost in proportion to their own box here. Nothing is lost:
    an upscaled value is a weighted mean of small ones, so it exceeds the level only where one of these does.

    Args:
        low_res: float32 [h, w] logits.
        frame: of the picture.
        level: a logit.
        upscaling: of the model.

    Returns:
        float32 [H', W'] logits, the same as in :func:`upscale` but for rounding, and the row and the column
        of the picture where they begin. [0, 0] if no logit exceeds the level.
    """
    rows, columns = _axes(low_res, frame, upscaling)
    active = low_res > level
    y, y_low = _window(rows, np.any(active, axis=1))
    x, x_low = _window(columns, np.any(active, axis=0))
    narrow = np.matmul(rows[y, y_low], _values(low_res[y_low, x_low], upscaling))  # [H', w]
    # Columns contiguous in memory, along which runs are looked for: several times faster than across.
    return _logits(np.matmul(columns[x, x_low], narrow.T).T, upscaling), y.start, x.start


def _values(logits: NDArray[np.float32], upscaling: Upscaling) -> NDArray[np.float32]:
    """What is interpolated: logits themselves, or their sigmoid, by a form that never overflows."""
    if upscaling == "logits":
        return logits
    half = np.float32(0.5)
    sigmoid: NDArray[np.float32] = half + half * np.tanh(half * logits)
    return sigmoid


def _logits(values: NDArray[np.float32], upscaling: Upscaling) -> NDArray[np.float32]:
    """The reverse of `_values`."""
    if upscaling == "logits":
        return values
    share = np.clip(values, EDGE, 1 - EDGE)
    odds: NDArray[np.float32] = share / (1 - share)
    return np.log(odds)


def _window(matrix: NDArray[np.float32], active: NDArray[np.bool_]) -> tuple[slice, slice]:
    """What active sources [source] reach through a matrix [target, source], and all sources of that."""
    targets = _extent(np.any(matrix[:, _extent(active)] != 0, axis=1))
    return targets, _extent(np.any(matrix[targets] != 0, axis=0))


def _extent(flags: NDArray[np.bool_]) -> slice:
    """From the first true one to the last, or nothing."""
    places = np.flatnonzero(flags)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _each(
    low_res: NDArray[np.float32], frame: Frame, upscaling: Upscaling
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float32]]]:
    rows, columns = _axes(low_res, frame, upscaling)
    for index in np.ndindex(low_res.shape[:-2]):
        values = _values(low_res[index], upscaling)
        yield index, np.matmul(np.matmul(rows, values), columns.T)  # [H, h] [h, w] [w, W]


def _axes(
    low_res: NDArray[np.float32], frame: Frame, upscaling: Upscaling
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[H, h] and [W, w]: what upscaling multiplies a mask with, from the left and, turned, from the right."""
    return (
        _axis(low_res.shape[-2], frame.image_size, frame.resized_height, frame.height, upscaling),
        _axis(low_res.shape[-1], frame.image_size, frame.resized_width, frame.width, upscaling),
    )


@lru_cache(maxsize=16)
def _axis(source: int, image_size: int, kept: int, target: int, upscaling: Upscaling) -> NDArray[np.float32]:
    """[target, source]: interpolate to ``image_size``, keep the first ``kept``, interpolate to ``target``; or
    at once, from the part of the source that these are."""
    if upscaling == "logits":
        steps = _bilinear(kept, target) @ _bilinear(source, image_size)[:kept]
    else:
        steps = _bilinear(source, target, source * kept / image_size)
    matrix = steps.astype(np.float32)
    matrix.flags.writeable = False  # it is shared by every caller
    return matrix


def _bilinear(source: int, target: int, length: float | None = None) -> NDArray[np.float64]:
    """[target, source] weights of one bilinear step, from the first ``length`` of the source or all of it.

    The step and the place are rounded to float32, with one rounding for multiply and subtract, as PyTorch
    does it: for odd sizes that rounding is the largest difference between two implementations.
    """
    step = np.float64(np.float32(source if length is None else length) / np.float32(target))
    places = (step * (np.arange(target) + 0.5) - 0.5).astype(np.float32)
    places = np.maximum(places, np.float32(0))
    left = np.minimum(places.astype(np.int64), source - 1)
    right = np.minimum(left + 1, source - 1)
    share = places.astype(np.float64) - left
    weights = np.zeros((target, source))
    rows = np.arange(target)
    weights[rows, left] += 1 - share
    weights[rows, right] += share
    return weights
