"""Values of any range to bytes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .notes import Note

Values = NDArray[Any]
PART = 1 / 4
"""16 bits of which no more than this share is used (14 bits and fewer) are stretched."""
DARK = 16
"""Levels of 256: where all but a thousandth of a picture is below, its range is not that of what it shows."""


def narrow(values: Values) -> NDArray[np.uint8]:
    """16 bits to 8, so that 0xffff is 255: divided by 257 and rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def scale(strips: Callable[[], Iterable[Values]], signed: bool, note: Note) -> list[NDArray[np.uint8]]:
    """Grey values to bytes: those of 16 bits by their range, all others, and 16 bits hardly used, by min-max.

    Args:
        strips: gives the picture in pieces [h, W] of one dtype, the same each time.
        signed: the values could be negative, which takes half of the range.
        note: told what is stretched.

    Returns:
        The same pieces. What is not finite is 0, or 255 for plus infinity.

    Raises:
        UserError: no value is finite.
    """
    low, high = _extrema(strips())
    first = next(iter(strips()))
    sixteen = first.dtype.kind in "iu" and not signed and 0 <= low <= high <= 0xFFFF
    if sixteen and (high == low or high - low >= PART * 0xFFFF):
        return _dark([narrow(values) for values in strips()], note)
    span = f"only the value {low:g}" if high == low else f"values from {low:g} to {high:g}"
    note("stretched", f"has {first.dtype.name} pixels with {span}; they are stretched to 0..255")
    factor = 255 / (high - low) if high > low else 0.0
    return [_stretched(values, low, high, factor) for values in strips()]


def _extrema(strips: Iterable[Values]) -> tuple[float, float]:
    """The smallest and the largest finite value."""
    low, high = np.inf, -np.inf
    for values in strips:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if high < low:
        raise UserError("has no finite value")
    return low, high


def _stretched(values: Values, low: float, high: float, factor: float) -> NDArray[np.uint8]:
    finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((finite - low) * factor).astype(np.uint8)


def spread(pixels: NDArray[np.uint8], note: Note) -> NDArray[np.uint8]:
    """The high bytes of 16-bit colours, which are all that Pillow gives: stretched if they use few levels.

    Args:
        pixels: uint8 [H, W, 3].
        note: told what is stretched.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if high == low or high - low >= PART * 256:
        return _dark([pixels], note)[0]
    note(
        "stretched",
        f"uses {high - low + 1} of the 256 levels that Pillow keeps of 16-bit colours, {low} to {high}; they"
        " are stretched to 0..255",
    )
    table = np.clip(np.rint((np.arange(256) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return np.asarray(table[pixels])


def _dark(pieces: list[NDArray[np.uint8]], note: Note) -> list[NDArray[np.uint8]]:
    """Say so where 16 bits give a picture that is nearly black: a few bright pixels can be all its range."""
    bright = sum(int(np.count_nonzero(piece >= DARK)) for piece in pieces)
    if bright < sum(piece.size for piece in pieces) / 1000:
        note(
            "dark",
            "is nearly black: of its 16-bit values less than a thousandth lies above a sixteenth of the"
            " range; convert it to 8 bits with the range that it uses",
        )
    return pieces
