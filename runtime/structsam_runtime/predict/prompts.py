"""Points, boxes and masks of a person -> inputs of the decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from .image import Frame

ABSENT, PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -2, -1, 0, 1, 2, 3
LARGEST = 1e9
"""No number of a prompt goes further from zero: the decoder squares them, in float32."""


@dataclass(frozen=True)
class Prompt:
    """What a person points at: any number of points, a box, an earlier mask, or several of these.

    Lists, NumPy arrays and PyTorch tensors, on any device and with or without gradient.

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
            the tightest box around a one-pixel object are. An empty list is a batch of no boxes.

    Raises:
        UserError: no prompt, a shape or a count that does not fit, labels without points or points without
            labels, labels other than 0 and 1, NaN, infinity or a number beyond LARGEST, a box whose corners
            are swapped, a point or a whole box outside the picture.
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
        prompts: any number, or none.

    Raises:
        UserError: one of them is wrong: see `encode`; its number, from 1, is told.
    """
    return _batch([_encode_one(frame, prompt, number) for number, prompt in enumerate(prompts, start=1)])


@dataclass(frozen=True)
class Sound:
    """Those of many prompts that can be answered, and what is wrong with the others.

    Attributes:
        encoded: K prompts.
        masks: of each of them, logits float32 [1, h, w] or None.
        indices: int64 [K]: their places among all that were given.
        errors: what is wrong, by the number of the prompt, from 1.
    """

    encoded: Encoded
    masks: Sequence[NDArray[np.float32] | None]
    indices: NDArray[np.int64]
    errors: Mapping[int, str]


def encode_sound(frame: Frame, side: int, prompts: Sequence[Prompt]) -> Sound:
    """`encode_each`, with masks and without the prompts that are wrong.

    Args:
        frame: of the picture that the prompts belong to.
        side: of the masks, h = w; 256 for SAM.
        prompts: any number, or none.

    Raises:
        UserError: all of them are wrong; says why the first is.
    """
    each, masks, indices, errors = [], [], [], {}
    for number, prompt in enumerate(prompts, start=1):
        try:
            encoded = _encode_one(frame, prompt, number)
            masks.append(_one_mask(prompt, side, number))
        except UserError as error:
            errors[number] = str(error)
        else:
            each.append(encoded)
            indices.append(number - 1)
    if errors and not each:
        told = f"none of {len(errors)} prompts is right: " if len(errors) > 1 else ""
        raise UserError(told + errors[1])
    return Sound(_batch(each), masks, np.array(indices, np.int64), errors)


def encode_masks(mask_input: ArrayLike, encoded: Encoded, side: int) -> list[NDArray[np.float32]]:
    """The checked ``mask_input`` of a prompt or of a batch, as a list of logits [1, h, w].

    Its shape must be exact, or NumPy would give one mask to all prompts.

    Args:
        mask_input: [1, h, w], or [P, 1, h, w] for a batch.
        encoded: the points and boxes that came with it.
        side: h and w; 256 for SAM.

    Raises:
        UserError: another shape, or no finite numbers.
    """
    mask = finite("mask_input", mask_input).astype(np.float32)
    expected = (len(encoded), 1, side, side) if encoded.batched else (1, side, side)
    if mask.shape != expected:
        raise UserError(f"mask_input has shape {list(mask.shape)}, expected {list(expected)}")
    return list(mask.reshape(len(encoded), 1, side, side))


def _one_mask(prompt: Prompt, side: int, number: int) -> NDArray[np.float32] | None:
    """The checked ``mask_input`` of one of many prompts, [1, h, w]."""
    if prompt.mask_input is None:
        return None
    mask = finite(f"prompt {number}: mask_input", prompt.mask_input).astype(np.float32)
    if mask.shape not in ((side, side), (1, side, side)):
        raise UserError(
            f"prompt {number}: mask_input has shape {list(mask.shape)}, expected {[1, side, side]}"
        )
    return mask.reshape(1, side, side)


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


def _batch(each: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]]) -> Encoded:
    """Places [N, 2] and labels [N] of prompts, filled up to the same N."""
    longest = max((len(coords) for coords, _ in each), default=0)
    coords = np.zeros((len(each), max(1, longest), 2), np.float32)
    labels = np.full(coords.shape[:2], ABSENT, np.int32)
    for index, (own_coords, own_labels) in enumerate(each):
        coords[index, : len(own_coords)] = own_coords
        labels[index, : len(own_labels)] = own_labels
    return Encoded(coords, labels, batched=True)


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
    if points.ndim not in (2, 3) or points.shape[-1] != 2 or points.shape[-2] == 0:
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
    if boxes.shape == (0,):  # a list of no boxes
        boxes = boxes.reshape(0, 4)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise UserError(f"box has shape {list(boxes.shape)}, expected [4] or [P, 4] with x0, y0, x1, y1")
    for x0, y0, x1, y1 in boxes.reshape(-1, 4):
        given = f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 < x0 or y1 < y0:
            raise UserError(f"{given} is turned around, expected x0 <= x1 and y0 <= y1")
        if x1 < 0 or y1 < 0 or x0 >= frame.width or y0 >= frame.height:
            raise UserError(f"{given} lies outside the picture of {frame.width} x {frame.height} pixels")
    return boxes.reshape(-1, 2, 2), boxes.ndim == 2


def finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A float64 copy of an array that a person gave, or of a tensor of PyTorch.

    Raises:
        UserError: not an array of numbers; or NaN, infinity or a number beyond LARGEST in it.
    """
    try:
        given = np.asarray(_without_gradient(values))
        if given.dtype.kind not in "biufO":
            raise TypeError(f"it holds {given.dtype}")
        with np.errstate(over="ignore"):
            array = np.array(given, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"{name} is not an array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity, expected finite numbers")
    beyond = array[np.abs(array) > LARGEST]
    if beyond.size:
        raise UserError(f"{name} holds {beyond[0]:g}, expected numbers from {-LARGEST:g} to {LARGEST:g}")
    return array


def _without_gradient(values: Any) -> Any:
    """Tensors of PyTorch, alone or in lists, as NumPy takes them; everything else as it is."""
    if callable(getattr(values, "detach", None)):
        tensor = values.detach().cpu()
        return tensor.double() if tensor.is_floating_point() else tensor  # NumPy has no bfloat16
    return [_without_gradient(value) for value in values] if isinstance(values, list | tuple) else values
