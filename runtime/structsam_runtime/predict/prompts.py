"""Points and boxes of a person -> the two inputs of the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from .image import Frame

ABSENT, PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -2, -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Prompt:
    """What a person points at: any number of points, a box, an earlier mask, or several of these.

    Attributes:
        point_coords: [N, 2] (x, y) in pixels of the picture.
        point_labels: [N]: 1 for foreground, 0 for background.
        box: [4] x0, y0, x1, y1 in pixels of the picture.
        mask_input: [h, w] or [1, h, w] logits of an earlier mask, as `Predictor.predict` returns them.
    """

    point_coords: ArrayLike | None = None
    point_labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask_input: ArrayLike | None = None


@dataclass(frozen=True)
class Encoded:
    """P prompts of N places each, in the model's frame.

    Attributes:
        point_coords: float32 [P, N, 2] (x, y), pixels of the model's input.
        point_labels: int32 [P, N]: -2 absent, -1 padding, 0 background, 1 foreground, 2 and 3 the corners of
            a box.
        batched: whether the person gave a batch, and so expects a leading P axis back.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.int32]
    batched: bool

    def __len__(self) -> int:
        return len(self.point_coords)


def encode(
    frame: Frame,
    point_coords: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
) -> Encoded:
    """Bring prompts into the model's frame and into one list of labelled places.

    Points come first, then the two corners of the box. Points without a box are followed by one padding place
    at (0, 0), because the decoder was trained to see it. The half pixel to a pixel's centre is added inside
    the decoder.

    Args:
        frame: of the picture that the prompts belong to.
        point_coords: [N, 2] or, for a batch, [P, N, 2]: (x, y) in pixels of the picture.
        point_labels: [N] or [P, N]: 1 for foreground, 0 for background.
        box: [4] or [P, 4]: x0, y0, x1, y1 in pixels of the picture. The corners may be one pixel, as those of
            the tightest box around a one-pixel object are.

    Raises:
        UserError: no prompt, a shape or a count that does not fit, labels without points or points without
            labels, labels other than 0 and 1, NaN or infinity, a box whose corners are swapped, a point or a
            whole box outside the picture.
    """
    coords: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.int32]] = []
    batched = False
    if point_coords is not None or point_labels is not None:
        points, point_classes, batched = _points(point_coords, point_labels, frame)
        coords.append(points)
        labels.append(point_classes)
    if box is not None:
        corners, box_batched = _corners(box, frame)
        batched = batched or box_batched
        coords.append(corners)
        labels.append(np.tile(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), (len(corners), 1)))
    elif coords:
        coords.append(np.zeros((len(coords[0]), 1, 2)))
        labels.append(np.full((len(coords[0]), 1), PADDING, np.int32))
    if not coords:
        raise UserError("no prompt: give points with labels, or a box")
    if len(coords[0]) != len(coords[-1]):
        raise UserError(
            f"points of {len(coords[0])} prompts came with boxes of {len(coords[-1])}; give as many of each"
        )
    placed = frame.to_model(np.concatenate(coords, axis=1)).astype(np.float32)  # [P, N, 2]
    return Encoded(placed, np.concatenate(labels, axis=1), batched)


def encode_each(frame: Frame, prompts: Sequence[Prompt]) -> Encoded:
    """Prompts of any kinds and lengths as one batch; their masks are not looked at.

    A shorter prompt is filled up with absent places, which the decoder does not see: its masks are those of
    the prompt alone. A prompt without points and box, which can only be a mask, has nothing but them.

    Args:
        frame: of the picture that the prompts belong to.
        prompts: at least one.

    Raises:
        UserError: there is none, or one of them is wrong: see `encode`; its number, from 1, is told.
    """
    if not prompts:
        raise UserError("no prompt: give at least one")
    each = [_encode_one(frame, prompt, number) for number, prompt in enumerate(prompts, start=1)]
    longest = max(coords.shape[0] for coords, _ in each)
    coords = np.zeros((len(each), max(1, longest), 2), np.float32)
    labels = np.full(coords.shape[:2], ABSENT, np.int32)
    for index, (own_coords, own_labels) in enumerate(each):
        coords[index, : len(own_coords)] = own_coords
        labels[index, : len(own_labels)] = own_labels
    return Encoded(coords, labels, batched=True)


def _encode_one(frame: Frame, prompt: Prompt, number: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Places [N, 2] and labels [N] of one prompt; none if it is a mask alone."""
    given = (prompt.point_coords, prompt.point_labels, prompt.box)
    if prompt.mask_input is not None and all(value is None for value in given):
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    try:
        encoded = encode(frame, *given)
    except UserError as error:
        raise UserError(f"prompt {number}: {error}") from error
    if encoded.batched:
        raise UserError(f"prompt {number} is a batch of {len(encoded)}; give each prompt by itself")
    return encoded.point_coords[0], encoded.point_labels[0]


def _points(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None, frame: Frame
) -> tuple[NDArray[np.float64], NDArray[np.int32], bool]:
    """Checked points [P, N, 2], their labels [P, N], and whether they came as a batch."""
    if point_coords is None:
        raise UserError("point_labels came without point_coords; give a place for every label")
    if point_labels is None:
        raise UserError(
            "point_coords came without point_labels; give 1 (foreground) or 0 (background) for each"
        )
    points = finite("point_coords", point_coords)
    if points.ndim not in (2, 3) or points.shape[-1] != 2 or points.size == 0:
        raise UserError(
            f"point_coords has shape {list(points.shape)}, expected [N, 2] or [P, N, 2] with x, y"
        )
    labels = finite("point_labels", point_labels)
    if labels.shape != points.shape[:-1]:
        raise UserError(
            f"point_labels has shape {list(labels.shape)}, expected {list(points.shape[:-1])}: one for each"
            " point"
        )
    if not np.isin(labels, (BACKGROUND, FOREGROUND)).all():
        wrong = labels[~np.isin(labels, (BACKGROUND, FOREGROUND))][0]
        raise UserError(f"point_labels holds {wrong:g}, expected 1 (foreground) or 0 (background)")
    outside = ((points < 0) | (points > (frame.width, frame.height))).any(axis=-1)
    if outside.any():
        x, y = points[outside][0]
        raise UserError(
            f"the point ({x:g}, {y:g}) lies outside the picture of {frame.width} x {frame.height} pixels"
        )
    return (
        points.reshape(-1, *points.shape[-2:]),
        labels.astype(np.int32).reshape(-1, labels.shape[-1]),
        points.ndim == 3,
    )


def _corners(box: ArrayLike, frame: Frame) -> tuple[NDArray[np.float64], bool]:
    """Checked corners [P, 2, 2] of the boxes, and whether they came as a batch."""
    boxes = finite("box", box)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4 or boxes.size == 0:
        raise UserError(f"box has shape {list(boxes.shape)}, expected [4] or [P, 4] with x0, y0, x1, y1")
    for x0, y0, x1, y1 in boxes.reshape(-1, 4):
        given = f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 < x0 or y1 < y0:
            raise UserError(f"{given} is turned around, expected x0 <= x1 and y0 <= y1")
        if x1 < 0 or y1 < 0 or x0 >= frame.width or y0 >= frame.height:
            raise UserError(f"{given} lies outside the picture of {frame.width} x {frame.height} pixels")
    return boxes.reshape(-1, 2, 2), boxes.ndim == 2


def finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A float64 copy of an array that a person gave.

    Raises:
        UserError: not an array of numbers, or NaN or infinity in it.
    """
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity, expected finite numbers")
    return array
