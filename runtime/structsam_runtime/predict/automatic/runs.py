"""Masks as vertical runs of pixels: small enough to keep thousands of a large photograph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask [H, W]: its pixels as runs down the columns, sorted by column, then by row.

    A run ends at the foot of its column at the latest, and runs of one column do not touch. So moving a mask
    is adding to rows and columns, and what is connected is found without looking at pixels.
    """

    size: tuple[int, int]  # H, W
    column: NDArray[np.int32]  # [R]
    start: NDArray[np.int32]  # [R] first row
    stop: NDArray[np.int32]  # [R] the row after the last

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Runs":
        """The runs of a mask, bool [H, W]."""
        height, width = mask.shape
        # Before every column, and at the very end, stands a place that is off: it ends the run before it.
        flat = np.zeros(width * (height + 1) + 1, np.bool_)
        flat[:-1].reshape(width, height + 1)[:, 1:] = mask.T
        edges = np.flatnonzero(flat[1:] != flat[:-1])  # starts and stops in turn
        return cls._at(mask.shape, edges[::2], edges[1::2])

    @classmethod
    def _at(cls, size: tuple[int, ...], start: NDArray[np.int64], stop: NDArray[np.int64]) -> "Runs":
        """Runs from their places, column * (H + 1) + row."""
        height, width = size
        column, first = np.divmod(start, height + 1)
        return cls(
            (height, width),
            column.astype(np.int32),
            first.astype(np.int32),
            (stop - column * (height + 1)).astype(np.int32),
        )

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and stops [R] as places, column * (H + 1) + row: one ascending number for the whole mask.

        A stop has a place of its own even at the foot of a column, which is why a column counts H + 1.
        """
        base = self.column.astype(np.int64) * (self.size[0] + 1)
        return base + self.start, base + self.stop

    def decode(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W], with columns contiguous in memory."""
        return decode_rle(self.rle())

    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.lengths().sum())

    def lengths(self) -> NDArray[np.int64]:
        """[R] pixels of every run."""
        return (self.stop - self.start).astype(np.int64)

    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the mask's first and last columns and rows; all 0 for a mask without a pixel."""
        if len(self.column) == 0:
            return 0, 0, 0, 0
        return int(self.column[0]), int(self.start.min()), int(self.column[-1]), int(self.stop.max()) - 1

    def placed(self, top: int, left: int, size: tuple[int, int]) -> "Runs":
        """The same pixels in a larger mask of ``size`` (H, W), with the old corner at ``top``, ``left``."""
        shift = np.int32(top)
        return Runs(size, self.column + np.int32(left), self.start + shift, self.stop + shift)

    def take(self, keep: NDArray[np.bool_]) -> "Runs":
        """The mask of those runs where ``keep``, bool [R]."""
        return Runs(self.size, self.column[keep], self.start[keep], self.stop[keep])

    def inverted(self) -> "Runs":
        """All other pixels."""
        height, width = self.size
        start, stop = self.places()
        heads = np.arange(width) * (height + 1)
        # From the head of a column to its first run, between runs, and to the foot; some gaps are empty.
        gap_start, gap_stop = np.sort(np.append(heads, stop)), np.sort(np.append(heads + height, start))
        some = gap_start < gap_stop
        return self._at(self.size, gap_start[some], gap_stop[some])

    def rle(self) -> dict[str, Any]:
        """COCO's uncompressed run lengths: ``size`` [H, W] and ``counts``, off and on in turn, off first."""
        height, width = self.size
        base = self.column.astype(np.int64) * height
        edges = np.stack([base + self.start, base + self.stop], axis=1).reshape(-1)
        # COCO's runs go on from the foot of a column to the head of the next one.
        joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
        counts = np.diff(edges, prepend=0, append=height * width)
        if len(edges) and counts[-1] == 0:
            counts = counts[:-1]
        return {"size": [height, width], "counts": counts.tolist()}


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask, bool [H, W], of COCO's uncompressed run lengths (:meth:`Runs.rle`)."""
    height, width = rle["size"]
    on = np.arange(len(rle["counts"])) % 2 == 1
    return np.repeat(on, rle["counts"]).reshape(width, height).T
