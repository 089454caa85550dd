"""Pictures resized by cubic splines after a Gaussian: what MedSAM's published inference does.

There it is scikit-image's ``transform.resize(order=3, anti_aliasing=True)``. Blur, interpolation and the
mirror at the borders are linear and act on rows and columns apart, so that all of them are one banded matrix
for each axis. Pillow has no such filter: beside edges its bicubic one differs by up to 59 of 255 levels.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POLE = np.sqrt(3) - 2
"""Of the filter that makes a cubic B-spline pass through its samples."""
REACH = 24
"""Samples after which that filter's response is nothing beside a float64's last digits of a byte: POLE^24."""
TRUNCATE = 4
"""Standard deviations after which a Gaussian ends, as SciPy's does."""
BLOCK = 64
"""Rows of the result in one product: their sources are a narrow part of the picture."""


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture in another size, each axis by its own factor.

    Values beyond the picture's own range, which splines reach beside edges, are cut to it; fractions are
    dropped and not rounded.

    Args:
        image: uint8 RGB [H, W, 3].
        size: h, w.

    Returns:
        uint8 [h, w, 3]: the reference's, but for one level where its sum is a whole number up to the last
        digits, as in areas of one colour.
    """
    (height, width), (tall, wide) = image.shape[:2], size
    rows = _product(_axis(height, tall), image.reshape(height, -1)).reshape(tall, width, 3)
    across = rows.transpose(1, 0, 2).reshape(width, -1)
    resized = _product(_axis(width, wide), across).reshape(wide, tall, 3).transpose(1, 0, 2)
    return np.clip(resized, image.min(), image.max()).astype(np.uint8, order="C")


def _product(matrix: Floats, values: NDArray[np.uint8] | Floats) -> Floats:
    """``matrix @ values``, [target, source] and [source, K], without the zeros beside the band."""
    result = np.empty((len(matrix), values.shape[1]))
    for start in range(0, len(matrix), BLOCK):
        block = matrix[start : start + BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        band = slice(used[0], used[-1] + 1)
        np.matmul(block[:, band], values[band].astype(np.float64), out=result[start : start + BLOCK])
    return result


@lru_cache(maxsize=4)
def _axis(source: int, target: int) -> Floats:
    """[target, source] weights of one axis: blur, interpolate, and mirror about the outermost samples."""
    place = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(place).astype(np.int64)
    near = np.arange(-1, 3)  # the four B-splines over a place
    weights = _b_spline((place - first)[:, None] - near)
    far = np.arange(-REACH, REACH + 1)
    taps, weights = _spread(near, weights, far, -6 * POLE / (1 - POLE**2) * POLE ** np.abs(far))
    deviation = max(0.0, (source / target - 1) / 2)
    if deviation > 0:
        far = np.arange(-int(TRUNCATE * deviation + 0.5), int(TRUNCATE * deviation + 0.5) + 1)
        bell = np.exp(-0.5 * (far / deviation) ** 2)
        taps, weights = _spread(taps, weights, far, bell / bell.sum())
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target)[:, None], _mirrored(first[:, None] + taps, source)), weights)
    matrix.flags.writeable = False  # it is shared by every caller
    return matrix


def _b_spline(x: Floats) -> Floats:
    """The cubic B-spline at |x| <= 2."""
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, (2 - x) ** 3 / 6)


def _spread(
    taps: NDArray[np.int64], weights: Floats, far: NDArray[np.int64], kernel: Floats
) -> tuple[NDArray[np.int64], Floats]:
    """Filter before sampling: every tap reads ``kernel`` [F] around itself, at the offsets ``far`` [F].

    Args:
        taps: [T] offsets in a row.
        weights: [target, T].

    Returns:
        [T + F - 1] offsets in a row and [target, T + F - 1] weights.
    """
    wide = np.zeros((len(weights), len(taps) + len(far) - 1))
    for index in range(len(taps)):
        wide[:, index : index + len(far)] += weights[:, index, None] * kernel
    return np.arange(taps[0] + far[0], taps[-1] + far[-1] + 1), wide


def _mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places within [0, length) of places anywhere: the outermost samples are not repeated."""
    period = max(1, 2 * length - 2)
    inside = np.abs(index) % period
    return np.minimum(inside, period - inside) if length > 1 else inside
