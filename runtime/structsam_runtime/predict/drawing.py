"""Masks painted on a photograph, and what they were asked for with."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..colours import BLACK, MASKS, WHITE, Colour
from .automatic.runs import decode_rle

FILL = 0.45  # opacity of a mask
ON, OFF = (30, 200, 60), (230, 40, 40)  # points of the foreground and of the background


@dataclass(frozen=True)
class Pointed:
    """Prompts as they are drawn, in pixels of the photograph."""

    boxes: list[list[float]]  # x0, y0, x1, y1
    points: list[list[float]]  # x, y
    labels: list[int]  # 1 foreground, 0 background, one for each point


def line_width(height: int, width: int) -> int:
    """Pixels, so that a large photograph gets visible lines."""
    return max(1, round(max(height, width) / 300))


def distinct(count: int) -> list[Colour]:
    """So many colours that neighbours in the list, and most others, are easily told apart.

    Hues go on by the golden ratio, which never comes near where it was before; brightness takes turns.
    """
    hues = [index * (5**0.5 - 1) / 2 % 1 for index in range(count)]
    colours = [colorsys.hsv_to_rgb(hue, 0.85, (1.0, 0.75, 0.5)[index % 3]) for index, hue in enumerate(hues)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours]


def paint(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour, line: int) -> None:
    """Fill a mask translucently and line its inner edge, in place.

    Args:
        canvas: uint8 RGB [H, W, 3].
        mask: bool [H, W].
        colour: of the mask; the line has it undiluted.
        line: width of the line, pixels.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return
    # Its box and one pixel around it, if there is one: a small mask is cheap on a large canvas.
    part = tuple(slice(max(0, places[0] - 1), places[-1] + 2) for places in (rows, columns))
    pixels, inside = canvas[part], mask[part]
    pixels[inside] = np.rint((1 - FILL) * pixels[inside] + FILL * np.array(colour)).astype(np.uint8)
    pixels[inside & ~_eroded(inside, line)] = colour


def draw(
    rgb: NDArray[np.uint8], masks: NDArray[np.bool_], iou: NDArray[np.float32], asked: Pointed
) -> Image.Image:
    """The photograph with translucent masks, their outlines, their predicted IoU, and the prompts.

    Args:
        rgb: uint8 [H, W, 3].
        masks: bool [K, H, W].
        iou: float32 [K].
        asked: boxes and points to draw over them.
    """
    line = line_width(*rgb.shape[:2])
    canvas = rgb.copy()
    # Large masks first: a part stays visible on its whole.
    for index in np.argsort([-mask.sum() for mask in masks], kind="stable"):
        paint(canvas, masks[index], MASKS[index % len(MASKS)], line)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    per_box = len(masks) // max(1, len(asked.boxes))
    for index, box in enumerate(asked.boxes):
        colour = WHITE if per_box > 1 else MASKS[index % len(MASKS)]
        outlined_box(pen, box, colour, line)
    for point, label in zip(asked.points, asked.labels, strict=True):
        radius = 3 * line
        _disc(pen, point, radius + line, WHITE)
        _disc(pen, point, radius, ON if label else OFF)
    _write_qualities(pen, masks, iou, line)
    return picture


def draw_everything(
    rgb: NDArray[np.uint8], found: Sequence[Mapping[str, Any]]
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """The photograph with all masks, each in its own colour; and where there is one, bool [H, W].

    Args:
        rgb: uint8 [H, W, 3].
        found: largest first, so that a part stays visible on its whole.
    """
    canvas, union = rgb.copy(), np.zeros(rgb.shape[:2], np.bool_)
    for one, colour in zip(found, distinct(len(found)), strict=True):
        mask = decode_rle(one["segmentation"])
        paint(canvas, mask, colour, line_width(*rgb.shape[:2]))
        union |= mask
    return Image.fromarray(canvas), union


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask [H, W] less the pixels within ``steps`` of its edge; the rim of the array is no edge."""
    inner = mask
    for _ in range(steps):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def outlined_box(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, line: int) -> None:
    """A rectangle with a dark rim, to be seen on any background."""
    x0, y0, x1, y1 = box
    pen.rectangle((x0 - line, y0 - line, x1 + line, y1 + line), outline=BLACK, width=3 * line)
    pen.rectangle(box, outline=colour, width=line)


def _disc(pen: ImageDraw.ImageDraw, centre: Sequence[float], radius: int, colour: Colour) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _write_qualities(
    pen: ImageDraw.ImageDraw, masks: NDArray[np.bool_], iou: NDArray[np.float32], line: int
) -> None:
    """Each predicted IoU at the top of its mask, on a chip of the mask's colour."""
    size = 8 + 5 * line
    font = ImageFont.load_default(size)
    taken: list[tuple[float, float]] = []
    for index, mask in enumerate(masks):
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows) == 0:
            continue
        x, y = float(np.flatnonzero(mask[rows[0]]).mean()), float(rows[0])
        while any(abs(x - u) < 3 * size and abs(y - v) < 1.5 * size for u, v in taken):
            y += 1.5 * size  # below the chip that is there already
        taken.append((x, y))
        text = f"{iou[index]:.2f}"
        left, top, right, bottom = pen.textbbox((x, y), text, font=font, anchor="ma")
        chip = (left - line, top - line, right + line, bottom + line)
        pen.rectangle(chip, fill=MASKS[index % len(MASKS)])
        pen.text((x, y), text, font=font, anchor="ma", fill=BLACK)
