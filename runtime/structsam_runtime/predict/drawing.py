"""Masks painted on a photograph."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]  # red, green, blue, 0..255
FILL = 0.45  # opacity of a mask


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


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask [H, W] less the pixels within ``steps`` of its edge; the rim of the array is no edge."""
    inner = mask
    for _ in range(steps):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner
