"""Where prompts are, for an encoder that merges less there: its second input."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ..manifest import Model
from .prompts import BOTTOM_RIGHT, FOREGROUND, TOP_LEFT, Encoded, finite

Map = NDArray[np.float64]

RADIUS = 8
"""How far a point reaches, in tokens: a little more than half a window of 14. A point says where an object is
and not how large. Wherever in its window it lies, the nearest window beside that one then has some prior too,
so that the windows with the most prior are those around the point."""


def prior(
    model: Model, boxes: ArrayLike | None = None, points: ArrayLike | None = None
) -> NDArray[np.float32]:
    """The prior of any number of boxes and points of one picture; of none, the prior without prompts.

    A token has the share of its patch that a box covers. A point gives 1 to a token whose centre it is and
    less to its neighbours, down to nothing at RADIUS. Of several prompts the highest value counts.

    Args:
        model: gives the grid of tokens.
        boxes: [K, 4] x0, y0, x1, y1 in pixels of the model's input. Corners are pixels, and both are inside,
            so that the box of a single pixel is not empty.
        points: [K, 2] x, y in pixels of the model's input, of the foreground.

    Returns:
        float32 [1, h, w], 0 to 1; [1, 64, 64] for SAM.

    Raises:
        UserError: another shape, or NaN or infinity.
    """
    _, height, width = model.embedding
    patch = model.image_size / width
    values: Map = np.zeros((1, height, width))
    if boxes is not None:
        x0, y0, x1, y1 = _columns("boxes", boxes, 4).T
        down, across = _covered(y0, y1 + 1, height, patch), _covered(x0, x1 + 1, width, patch)
        values = np.concatenate([values, down[:, :, None] * across[:, None, :]])
    if points is not None:
        x, y = _columns("points", points, 2).T
        down, across = _distance(y, height, patch), _distance(x, width, patch)
        distance = np.hypot(down[:, :, None], across[:, None, :])
        values = np.concatenate([values, np.clip(1 - distance / RADIUS, 0, 1)])
    return np.asarray(values.max(axis=0, keepdims=True), np.float32)


def prior_of(model: Model, encoded: Encoded | None) -> NDArray[np.float32]:
    """The :func:`prior` of the boxes and of the foreground points of prompts; empty without any."""
    if encoded is None:
        return prior(model)
    corners = (encoded.point_coords[encoded.point_labels == label] for label in (TOP_LEFT, BOTTOM_RIGHT))
    boxes = np.concatenate(list(corners), axis=1)  # [K, 4]; the corners of a box stand in the same order
    return prior(model, boxes, encoded.point_coords[encoded.point_labels == FOREGROUND])


def _columns(name: str, values: ArrayLike, number: int) -> Map:
    """A checked [K, number] array."""
    array = finite(name, values)
    if array.ndim != 2 or array.shape[1] != number:
        raise UserError(f"{name} has shape {list(array.shape)}, expected [K, {number}]")
    return array


def _covered(start: Map, stop: Map, size: int, patch: float) -> Map:
    """[K] and [K] pixels to [K, size]: the share of every token along one axis that lies between them."""
    edge = np.arange(size) * patch
    inside: Map = np.minimum(stop[:, None], edge + patch) - np.maximum(start[:, None], edge)
    return np.clip(inside / patch, 0, 1)


def _distance(place: Map, size: int, patch: float) -> Map:
    """[K] pixels to [K, size]: how many tokens each token's centre is away along one axis."""
    distance: Map = np.abs(place[:, None] / patch - (np.arange(size) + 0.5))
    return distance
