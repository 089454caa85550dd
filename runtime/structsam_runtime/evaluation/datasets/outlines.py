"""Polygons and run lengths from annotation files, checked before C code sees them, which would trust them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as run_lengths
from numpy.typing import NDArray

from ...errors import UserError
from ...predict.automatic.runs import decode_rle

MORE = 0x20
"""In a character of COCO's compressed run lengths: the number goes on in the next one."""


def mask_of(drawn: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask, bool [H, W], of a segmentation in COCO's format.

    Args:
        drawn: polygons [[x, y, x, y, ...], ...] in pixels, or run lengths with ``size`` [H, W] and
            ``counts``, a list or COCO's text.
        height, width: of the picture.

    Raises:
        UserError: neither of these, or not within the picture.
    """
    if isinstance(drawn, dict):
        return _filled(drawn, height, width)
    if not isinstance(drawn, list) or not all(isinstance(polygon, list) for polygon in drawn):
        raise UserError(f"a segmentation is {drawn!r:.60}, expected polygons or run lengths")
    if not drawn:
        return np.zeros((height, width), np.bool_)
    polygons = [check_polygon(polygon, height, width) for polygon in drawn]
    if len(polygons[0]) < 6:  # pycocotools goes by the first, and would take it for a box
        raise UserError(f"a polygon is {drawn[0]!r:.60}, expected three corners or more")
    merged = run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))
    return np.asarray(run_lengths.decode(merged) > 0)


def check_polygon(places: Sequence[float], height: int, width: int) -> list[float]:
    """The places x, y, x, y ... of a polygon, in pixels, as floats.

    Raises:
        UserError: no corner, half of one, something else than finite numbers, or places so far outside of
            the picture, or so many, that drawing them would take memory without end.
    """
    if not places or len(places) % 2 or not all(type(place) in (int, float) for place in places):
        raise UserError(f"a polygon is {list(places)!r:.60}, expected pairs of numbers x, y")
    corners = np.array([min(max(place, -1e30), 1e30) for place in places]).reshape(-1, 2)  # nan stays nan
    size = np.array([width, height])
    if not ((corners >= -size) & (corners <= 2 * size)).all():
        raise UserError(f"a polygon leaves its picture of {width} x {height} pixels by more than its size")
    length = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
    if length > height * width + 4 * (height + width):
        raise UserError(f"a polygon of {len(corners)} corners is longer than its picture has pixels")
    return [float(place) for place in corners.ravel()]


def _filled(drawn: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    size, counts = drawn.get("size"), drawn.get("counts")
    if size != [height, width]:
        raise UserError(f"run lengths have the size {size!r:.40}, expected {[height, width]}")
    if isinstance(counts, (str, bytes)):
        counts = _uncompressed(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise UserError(f"run lengths have the counts {counts!r:.40}, expected whole numbers from 0")
    if sum(counts) != height * width:
        raise UserError(f"run lengths cover {sum(counts)} of {height * width} pixels")
    return decode_rle({"size": size, "counts": counts})


def _uncompressed(text: bytes) -> list[int]:
    """The counts of COCO's text: 5 bits a character, the lowest first; from the fourth number on, what it is
    more than the last but one."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:  # more than 64 bits
            raise UserError(f"run lengths have {chr(letter)!r} where COCO's text has none")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & MORE:
            value -= (bits & 0x10) << (shift - 4)  # the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise UserError("run lengths are cut short")
    return counts
