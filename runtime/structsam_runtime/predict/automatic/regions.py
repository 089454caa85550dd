"""Connected regions of a mask, found from its runs; the small ones removed."""

import numpy as np
from numpy.typing import NDArray

from .runs import Runs


def remove_small(mask: Runs, area: int) -> tuple[Runs, bool]:
    """Fill holes, then drop islands, of fewer than ``area`` pixels; pixels touch at sides and corners.

    Background at the rim of the picture is a hole too, if it is that small. Of a mask that has small islands
    only, the largest stays.

    Returns:
        The mask, and whether it had such holes or islands.
    """
    background = mask.inverted()
    label, pixels = regions(background)
    large = pixels >= area
    filled = large.all()
    if not filled:
        mask = background.take(large[label]).inverted()
    label, pixels = regions(mask)
    large = pixels >= area
    cleared = large.all()
    if not cleared:
        if not large.any():
            large[pixels.argmax()] = True
        mask = mask.take(large[label])
    return mask, not (filled and cleared)


def regions(mask: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The connected regions (8 neighbours) of a mask.

    Returns:
        label [R]: the region of every run, numbered as they appear; pixels [regions].
    """
    roots = _roots(len(mask.column), *_touching(mask))
    _, label = np.unique(roots, return_inverse=True)
    pixels = np.bincount(label, weights=mask.lengths()).astype(np.int64)  # exact: far below 2**53
    return label, pixels


def _touching(mask: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs of neighbouring columns that touch: [E] runs, and [E] runs one column further."""
    start, stop = mask.places()
    column = mask.size[0] + 1
    # Rows a..b and c..d, ends excluded, touch, if only at a corner, when a <= d and c <= b.
    first = np.searchsorted(stop, start + column, "left")
    last = np.searchsorted(start, stop + column, "right")
    count = last - first
    here = np.repeat(np.arange(len(start)), count)
    there = np.arange(count.sum()) + np.repeat(first - (count.cumsum() - count), count)
    return here, there


def _roots(count: int, here: NDArray[np.int64], there: NDArray[np.int64]) -> NDArray[np.int64]:
    """[count]: the same number for all that is connected by pairs [E], the least of its members."""
    root = np.arange(count)
    while True:
        a, b = root[here], root[there]
        if np.array_equal(a, b):
            return root
        # Every root learns of the least root that a pair joins it to; then everyone follows to the end.
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, root[root]):
            root = root[root]
