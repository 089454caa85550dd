"""Pictures of masks without and with merging, for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from structsam_runtime.colours import BLUE, ORANGE, SKY, WHITE, Colour
from structsam_runtime.predict.drawing import line_width, outlined_box, paint
from structsam_runtime.predict.prompts import BOTTOM_RIGHT

from .asking import Picture
from .trying import Judge, Tried

SHOWN = 4
"""Pictures in the report."""
LOST, GAINED = ORANGE, BLUE
"""Pixels that only the unmerged mask has, and those that only the merged one has."""


@dataclass(frozen=True)
class Shot:
    """The prompt of a picture on which masks agree least.

    Attributes:
        name: of the picture.
        prompt: the prompt in words.
        iou: of both masks, in [0, 1].
        unmerged, merged, difference: JPEG pictures as URIs.
    """

    name: str
    prompt: str
    iou: float
    unmerged: str
    merged: str
    difference: str


def shots(judge: Judge, pictures: Sequence[Picture], best: Tried) -> list[Shot]:
    """The worst prompts of pictures: of the worst picture first, then of others from bad to good.

    Args:
        judge: has the encoder and the decoder.
        pictures: the ones that `best` was tried on.
        best: the recipe.
    """
    worst = [int(np.argmin(ious)) for ious in best.ious]
    order = np.argsort([min(ious) for ious in best.ious])
    places = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
    return [
        _shot(judge, pictures[index], best, worst[index], best.ious[index][worst[index]])
        for index in order[places]
    ]


def _shot(judge: Judge, picture: Picture, best: Tried, prompt: int, iou: float) -> Shot:
    answers = judge.unmerged(picture), judge.merged(picture, best.recipe)
    before, after = (_mask(picture, answer.logits[prompt]) for answer in answers)
    return Shot(
        picture.name,
        _told(picture, prompt),
        iou,
        _drawn(picture, prompt, {SKY: before}),
        _drawn(picture, prompt, {SKY: after}),
        _drawn(picture, prompt, {LOST: before & ~after, GAINED: after & ~before}),
    )


def _mask(picture: Picture, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Logits [s, s] to a mask of the resized picture [h, w]."""
    height, width, _ = picture.sample.pixels.shape
    side = picture.sample.frame.image_size
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], (side, side), mode="bilinear"
    )
    inside: NDArray[np.bool_] = (smooth[0, 0, :height, :width] > 0).numpy()
    return inside


def _told(picture: Picture, prompt: int) -> str:
    places = _places(picture, prompt)
    if _is_box(picture, prompt):
        (x0, y0), (x1, y1) = places
        return f"box {x0:.0f} {y0:.0f} {x1:.0f} {y1:.0f}"
    return f"point {places[0][0]:.0f} {places[0][1]:.0f}"


def _is_box(picture: Picture, prompt: int) -> bool:
    return bool((picture.prompts.point_labels[prompt] == BOTTOM_RIGHT).any())


def _places(picture: Picture, prompt: int) -> NDArray[np.float64]:
    """Corners of a box [2, 2], or a point [1, 2], in pixels of the picture in its file."""
    coords = picture.prompts.point_coords[prompt].astype(np.float64)
    return picture.sample.frame.to_image(coords[-2:] if _is_box(picture, prompt) else coords[:1])


def _drawn(picture: Picture, prompt: int, masks: dict[Colour, NDArray[np.bool_]]) -> str:
    canvas = picture.sample.pixels.copy()
    line = line_width(*canvas.shape[:2])
    for colour, mask in masks.items():
        paint(canvas, mask, colour, line)
    drawn = Image.fromarray(canvas)
    pen, coords = ImageDraw.Draw(drawn), picture.prompts.point_coords[prompt]
    if _is_box(picture, prompt):
        outlined_box(pen, [float(value) for value in coords[-2:].ravel()], WHITE, line)
    else:
        (x, y), radius = coords[0], 4 * line
        for size, colour in ((radius + line, (0, 0, 0)), (radius, WHITE)):
            pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    drawn.thumbnail((480, 480))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
