"""Where everything mode looks: grids of points, on the picture and on crops of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import UserError
from ..prompts import finite

NEAR = 20  # pixels: a mask that ends so close to the edge of its crop is taken to be cut off


@dataclass(frozen=True)
class Crop:
    """A part of the picture, in pixels: columns x0 to x1 and rows y0 to y1, ends excluded."""

    layer: int  # 0 is the whole picture
    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1

    def cuts(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
        """Whether a mask's box (x0, y0, x1, y1 in the picture) ends near an edge that is not the picture's.

        Args:
            box: of the mask.
            size: of the picture, H and W.
        """
        ends = (0, 0, size[1], size[0])
        return any(
            abs(place - edge) <= NEAR < abs(place - end)
            for place, edge, end in zip(box, self.box, ends, strict=True)
        )


def point_grid(side: int) -> NDArray[np.float64]:
    """[side * side, 2] (x, y) in 0..1, row by row: the centres of equal squares."""
    half = 1 / (2 * side)
    places = np.linspace(half, 1 - half, side)
    return np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)


def regular_grids(points_per_side: int, layers: int, factor: int) -> list[NDArray[np.float64]]:
    """:func:`point_grid` for the picture and each layer of crops, its side divided by ``factor`` each time.

    Raises:
        UserError: a layer gets no point.
    """
    sides = [int(points_per_side / factor**layer) for layer in range(layers + 1)]
    if sides[-1] < 1:
        raise UserError(
            f"points_per_side {points_per_side}, divided by {factor} for each layer of crops, leaves no point"
            f" in layer {layers}; give more points or fewer layers"
        )
    return [point_grid(side) for side in sides]


def checked_grids(point_grids: Sequence[ArrayLike], layers: int) -> list[NDArray[np.float64]]:
    """A person's own points, [N, 2] (x, y) in 0..1 for the picture and for each layer of crops.

    Raises:
        UserError: fewer grids than layers, or something else than such points.
    """
    if len(point_grids) <= layers:
        raise UserError(
            f"point_grids has {len(point_grids)} grids, expected {layers + 1}: for the picture and for each"
            " layer of crops"
        )
    grids = [finite("a grid of point_grids", grid) for grid in point_grids]
    for grid in grids:
        if grid.ndim != 2 or grid.shape[1] != 2 or len(grid) == 0:
            raise UserError(f"a grid of point_grids has shape {list(grid.shape)}, expected [N, 2] with x, y")
        if grid.min() < 0 or grid.max() > 1:
            raise UserError(
                f"a grid of point_grids reaches from {grid.min():g} to {grid.max():g}, expected 0 to 1:"
                " shares of the width and the height"
            )
    return grids


def crops(height: int, width: int, layers: int, overlap: float) -> list[Crop]:
    """The whole picture, then 2 x 2 crops of it, then 4 x 4 and so on.

    Args:
        height: of the picture, pixels.
        width: of the picture, pixels.
        layers: how many after the first.
        overlap: of 2 x 2 crops, as a share of the picture's short side; half as much in each next layer.

    Returns:
        Column by column. Crops that would begin beyond the edge of a tiny picture are left out.
    """
    found = [Crop(0, 0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(height, width) * (2 / count))
        wide, high = (math.ceil((shared * (count - 1) + length) / count) for length in (width, height))
        found += [
            Crop(layer, x0, y0, min(x0 + wide, width), min(y0 + high, height))
            for x0 in (index * (wide - shared) for index in range(count))
            for y0 in (index * (high - shared) for index in range(count))
            if x0 < width and y0 < height
        ]
    return found
