"""Drawn objects: outlines and thin strokes, filled with textures, with exact masks.

Everything is a function of a random generator, so that a sample is reproduced by its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Points = NDArray[np.float64]
"""[n, 2] (x, y) in a unit square."""

_Item = TypeVar("_Item")

OVERSAMPLING = 3
"""Masks are drawn this many times larger and averaged down, which gives them soft edges."""
VISIBLE = 110
"""Coverage, of 255, from which a pixel belongs to an object: near one half, so that thin lines stay whole."""
THIN = (1.5, 10.0)
"""Widths of thin strokes, in pixels."""


@dataclass(frozen=True)
class Layer:
    """An object to be put on a canvas.

    Attributes:
        image: RGB, of the same size as the mask.
        mask: L, coverage 0..255.
    """

    image: Image.Image
    mask: Image.Image


class Canvas:
    """A picture that objects are put on, and which of them every pixel shows.

    Attributes:
        image: RGB, S x S.
        labels: uint8 [S, S]; 0 is unlabelled.
    """

    def __init__(self, image: Image.Image, labels: NDArray[np.uint8]) -> None:
        self.image = image
        self.labels = labels

    def put(self, layer: Layer, left: int, top: int, label: int, shadow: float = 0.0) -> None:
        """Cover what is there; parts beyond the border are lost.

        Args:
            layer: the object.
            left: pixels, may be negative.
            top: pixels, may be negative.
            label: 1..255.
            shadow: how dark its shadow is, 0 (none) .. 1.
        """
        if shadow:
            blurred = layer.mask.filter(ImageFilter.GaussianBlur(4)).point(lambda v: int(v * shadow))
            offset = max(2, layer.mask.width // 16)
            self.image.paste((0, 0, 0), (left + offset, top + offset), blurred)
        self.image.paste(layer.image, (left, top), layer.mask)
        covered = Image.new("L", self.image.size)
        covered.paste(layer.mask, (left, top))
        self.labels[np.asarray(covered) >= VISIBLE] = label


def solid(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """The mask of a filled shape: a polygon, a star, a smooth blob, an ellipse, a box or a ring.

    Returns:
        L, width x height, coverage 0..255.
    """
    outline = _pick(rng, OUTLINES)(rng)
    mask = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    draw.polygon(_flat(outline, mask.size), fill=255)
    if rng.random() < 0.2:  # a hole
        inner = 0.5 + (outline - 0.5) * rng.uniform(0.4, 0.85)
        draw.polygon(_flat(inner, mask.size), fill=0)
    return mask.reduce(OVERSAMPLING)


def thin(
    rng: np.random.Generator, width: int, height: int, widths: tuple[float, float] = THIN
) -> Image.Image:
    """The mask of something made of thin strokes: wires, poles, grids, wheels, branches, contours.

    Args:
        rng: decides everything.
        width: pixels.
        height: pixels.
        widths: from and to which width of the strokes, in pixels.

    Returns:
        L, width x height, coverage 0..255.
    """
    stroke = round(float(np.exp(rng.uniform(*np.log(widths)))) * OVERSAMPLING)
    mask = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    margin = stroke / (2 * min(mask.size)) if min(mask.size) > 2 * stroke else 0.25
    for line in _pick(rng, STROKES)(rng):
        inside = margin + line * (1 - 2 * margin)
        draw.line(_flat(inside, mask.size), fill=255, width=stroke, joint="curve")
    return mask.reduce(OVERSAMPLING)


def fill(
    rng: np.random.Generator,
    width: int,
    height: int,
    textures: Sequence[Image.Image],
    photographed: float = 0.6,
) -> Image.Image:
    """A surface: cut from a photograph, or of plain colour, a gradient, noise or stripes; lit from a side.

    Args:
        rng: decides everything.
        width: pixels.
        height: pixels.
        textures: photographs, RGB.
        photographed: probability of a cut from a photograph.

    Returns:
        RGB, width x height.
    """
    if rng.random() < photographed:
        surface = _cut(rng, width, height, textures)
    else:
        blend = _pattern(rng, width, height)[..., None]  # [H, W, 1]
        low, high = rng.uniform(0, 255, (2, 3))
        surface = (low + (high - low) * blend).astype(np.float32)
    if rng.random() < 0.5:
        surface *= 1 - rng.uniform(0.1, 0.6) * _ramp(rng, width, height)[..., None]
    return Image.fromarray(surface.clip(0, 255).astype(np.uint8))


def _cut(
    rng: np.random.Generator, width: int, height: int, textures: Sequence[Image.Image]
) -> NDArray[np.float32]:
    """A piece of a photograph at a random scale, its colours changed. Float [H, W, 3]."""
    photo = _pick(rng, textures)
    zoom = np.exp(rng.uniform(np.log(0.5), np.log(2.0)))
    w, h = min(photo.width, width / zoom), min(photo.height, height / zoom)
    left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    piece = photo.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    gain, shift = rng.uniform(0.6, 1.4, 3), rng.uniform(-40, 40, 3)
    changed = np.asarray(piece, np.float32) * gain + shift
    return changed.astype(np.float32)


def _pattern(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """[H, W] 0..1: nothing, a ramp, soft noise, or stripes."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((height, width), np.float32)
    if kind == 1:
        return _ramp(rng, width, height)
    if kind == 2:
        cells = rng.integers(2, 24, 2)
        noise = Image.fromarray(rng.uniform(0, 1, cells).astype(np.float32))
        return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    period = rng.uniform(4, 40)
    waves = np.asarray(0.5 + 0.5 * np.sin(_ramp(rng, width, height) * (width + height) / period))
    return (waves > 0.5 if rng.random() < 0.5 else waves).astype(np.float32)


def _ramp(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """[H, W] 0..1, rising in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
    return np.asarray((x[None, :] + y[:, None]) / 1.5 + 0.5, np.float32)


def _flat(points: Points, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Unit coordinates to pixels, as Pillow wants them."""
    return [(float(x), float(y)) for x, y in points * (size[0] - 1, size[1] - 1)]


def _pick(rng: np.random.Generator, items: Sequence[_Item]) -> _Item:
    return items[int(rng.integers(len(items)))]


def _radial(radius: NDArray[np.float64], angle: NDArray[np.float64]) -> Points:
    """Polar to unit coordinates, scaled so that the unit square is filled."""
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    filled: Points = (points - low) / np.maximum(high - low, 1e-6)
    return filled


def _polygon(rng: np.random.Generator) -> Points:
    count = int(rng.integers(3, 10))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    return _radial(rng.uniform(0.4, 1, count), angle)


def _star(rng: np.random.Generator) -> Points:
    count = 2 * int(rng.integers(3, 9))
    angle = np.arange(count) * 2 * np.pi / count + rng.uniform(0, np.pi)
    return _radial(np.where(np.arange(count) % 2, rng.uniform(0.25, 0.7), 1.0), angle)


def _blob(rng: np.random.Generator) -> Points:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 7):
        radius += rng.normal(0, 0.5 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return _radial(np.maximum(radius, 0.15), angle)


def _ellipse(rng: np.random.Generator) -> Points:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    flat, turn = rng.uniform(0.3, 1), rng.uniform(0, np.pi)
    return _radial(1 / np.hypot(np.cos(angle - turn), np.sin(angle - turn) / flat), angle)


def _box(rng: np.random.Generator) -> Points:
    half, turn = rng.uniform(0.2, np.pi / 2 - 0.2), rng.choice([0, rng.uniform(0, np.pi)])
    return _radial(np.ones(4), turn + np.array([-half, half, np.pi - half, np.pi + half]))


OUTLINES: tuple[Callable[[np.random.Generator], Points], ...] = (_polygon, _star, _blob, _ellipse, _box)


def _wire(rng: np.random.Generator) -> list[Points]:
    """A cable that sags between two ends."""
    x = np.linspace(0, 1, 24)
    ends, sag = rng.uniform(0, 1, 2), rng.uniform(-0.6, 0.6)
    y = ends[0] + (ends[1] - ends[0]) * x + sag * 4 * x * (1 - x)
    points = np.stack([x, np.clip(y, 0, 1)], axis=1)
    return [points if rng.random() < 0.6 else points[:, ::-1]]


def _pole(rng: np.random.Generator) -> list[Points]:
    """A straight line, sometimes with arms."""
    lines = [np.stack([rng.uniform(0, 1, 2), [0.0, 1.0]], axis=1)]
    foot, top = lines[0][1], lines[0][0]
    for _ in range(rng.integers(0, 3)):
        joint = top + (foot - top) * rng.uniform(0, 0.7)
        lines.append(np.stack([joint, rng.uniform(0, 1, 2)]))
    return [line if rng.random() < 0.8 else line[:, ::-1] for line in lines]


def _wave(rng: np.random.Generator) -> list[Points]:
    x = np.linspace(0, 1, 64)
    y = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.5, 4) * x + rng.uniform(0, 2 * np.pi))
    return [np.stack([x, y], axis=1)]


def _grid(rng: np.random.Generator) -> list[Points]:
    """Bars across, and sometimes along."""
    across = [np.array([[t, 0], [t, 1]]) for t in np.linspace(0, 1, int(rng.integers(3, 8)))]
    along = [np.array([[0, t], [1, t]]) for t in np.linspace(0, 1, int(rng.integers(2, 6)))]
    return across + along if rng.random() < 0.7 else across + along[:: len(along) - 1]


def _wheel(rng: np.random.Generator) -> list[Points]:
    angle = np.linspace(0, 2 * np.pi, 48)
    rim = 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    spokes = rim[:: int(rng.integers(6, 24))]
    return [rim, *(np.stack([np.full(2, 0.5), end]) for end in spokes)]


def _branches(rng: np.random.Generator) -> list[Points]:
    """A bare tree."""
    lines: list[Points] = []

    def grow(root: NDArray[np.float64], angle: float, length: float, left: int) -> None:
        tip = np.clip(root + length * np.array([np.cos(angle), np.sin(angle)]), 0, 1)
        lines.append(np.stack([root, tip]))
        for _ in range(2 if left else 0):
            grow(tip, angle + rng.normal(0, 0.6), length * rng.uniform(0.5, 0.8), left - 1)

    grow(np.array([0.5, 1.0]), -np.pi / 2 + rng.normal(0, 0.2), 0.35, int(rng.integers(1, 4)))
    return lines


def _contour(rng: np.random.Generator) -> list[Points]:
    outline = _pick(rng, OUTLINES)(rng)
    return [np.concatenate([outline, outline[:2]])]


STROKES: tuple[Callable[[np.random.Generator], list[Points]], ...] = (
    _wire,
    _wire,
    _pole,
    _pole,
    _wave,
    _grid,
    _wheel,
    _branches,
    _contour,
)
