"""Samples to train on: views of photographs, and compositions on top of them, with prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from .photos import PANOPTIC, UNKNOWN, Photo, Photos
from .scenes import THIN, Canvas, Layer, fill, solid, thin

SMALL = 64
"""Pixels of the smallest object that is asked for."""
PARTS = 8
"""Connected parts of a union that are asked for, the largest."""
COMPOSED = 0.35
"""How many samples are compositions."""
SLENDER = (3.0, 10.0)
"""Widths of strokes, in pixels of the final size, that thin objects are validated with: see `thin_set`."""
FINAL = 512
"""Pixels of the longest side of a picture at the size that training ends with."""
PADDING = (124, 116, 104)
"""SAM's mean pixel: what its padding with zeros after normalisation is, as a colour."""


@dataclass(frozen=True)
class Example:
    """A picture with its objects.

    Attributes:
        image: uint8 [S, S, 3].
        labels: uint8 [S, S]; UNKNOWN where it is not known what is there.
        objects: the labels that may be asked for.
        union: whether connected parts of an object may be asked for too.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: tuple[int, ...]
    union: bool = False


def view(photo: Photo, rng: np.random.Generator, size: int) -> Example:
    """A photograph, whole or cropped, at a random scale, flipped or not, padded to size x size.

    Scales reach from the whole picture in view to 1.6 times the pixels of the final size, so that detail of
    the final size is seen however small the input is. Thin things are never made smaller than they are at the
    final size: their labels would be dots.
    """
    longest = max(photo.image.size)
    whole, final = size / longest, max(FINAL, size) / longest
    widest = np.log(0.9 * final if photo.thin else 0.8 * whole), np.log(1.6 * final)
    complete = not photo.thin and rng.random() < 0.3
    scale = whole if complete else float(np.exp(rng.uniform(*widest)))
    box = _crop(photo, rng, size / scale)
    shape = (min(size, round((box[2] - box[0]) * scale)), min(size, round((box[3] - box[1]) * scale)))
    piece = photo.image.resize(shape, Image.Resampling.BILINEAR, box=box)
    marked = photo.labels.resize(shape, Image.Resampling.NEAREST, box=box)
    if rng.random() < 0.5:
        piece, marked = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (piece, marked))
    image = np.full((size, size, 3), PADDING, np.uint8)
    labels = np.zeros((size, size), np.uint8)
    image[: shape[1], : shape[0]] = _recolour(np.asarray(piece), rng)
    labels[: shape[1], : shape[0]] = np.asarray(marked)
    stuff = tuple(set(np.unique(labels).tolist()) - {0, UNKNOWN} - set(photo.things))
    return Example(image, labels, photo.things + (stuff if rng.random() < 0.35 else ()), photo.union)


def _crop(photo: Photo, rng: np.random.Generator, side: float) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1 of a crop that is at most so wide and high; mostly around a pixel of an object."""
    sides = np.array(photo.image.size)
    extent = np.minimum(sides, side)
    corner = rng.uniform(0, sides - extent)
    if photo.things and (extent < sides).any() and rng.random() < 0.7:
        inside = np.flatnonzero(np.asarray(photo.labels) == rng.choice(photo.things))
        place = np.array(divmod(int(inside[rng.integers(len(inside))]), photo.image.width))[::-1]
        corner = np.clip(place - extent * rng.uniform(0.2, 0.8, 2), 0, sides - extent)
    (x0, y0), (x1, y1) = corner, corner + extent
    return float(x0), float(y0), float(x1), float(y1)


def targets(example: Example) -> list[NDArray[np.bool_]]:
    """What may be asked for in an example: the masks [S, S] of its objects, and of the parts of unions."""
    areas = np.bincount(example.labels.ravel(), minlength=256)
    whole = [example.labels == label for label in example.objects if areas[label] >= SMALL]
    return whole + [part for mask in whole if example.union for part in _parts(mask)]


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The largest connected parts of a mask (8 neighbours), if they are several, that are not too small."""
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    if count < 2:
        return []
    areas = np.bincount(pieces.ravel())[1:]
    largest = [int(piece) for piece in np.argsort(-areas, kind="stable")[:PARTS] if areas[piece] >= SMALL]
    return [pieces == piece + 1 for piece in largest]


def composition(photos: Photos, rng: np.random.Generator, size: int) -> Example:
    """Objects put over a photograph or a drawn surface: cut from other photographs, or drawn."""
    every = photos.train + photos.plain
    textures = photos.textures
    if rng.random() < 0.6:
        below = view(every[rng.integers(len(every))], rng, size)
    else:
        surface = np.array(fill(rng, size, size, textures))
        below = Example(surface, np.zeros((size, size), np.uint8), ())
    canvas = Canvas(Image.fromarray(below.image), below.labels.copy())
    first = int(below.labels[below.labels < UNKNOWN].max(initial=0)) + 1
    count = min(int(rng.integers(2, 10)), UNKNOWN - first)
    cut, slender = rng.choice([0.0, 0.3, 0.9]), rng.uniform(0.1, 0.9)
    for label in range(first, first + count):
        if rng.random() < cut:
            layer = cut_out(photos.pick(rng), rng, size)
        else:
            layer = drawn(rng, size, textures, thin_share=slender)
        left, top = (int(rng.uniform(-0.3 * side, size - 0.7 * side)) for side in layer.mask.size)
        canvas.put(layer, left, top, label, shadow=rng.choice([0.0, 0.0, rng.uniform(0.2, 0.6)]))
    image = _recolour(np.asarray(canvas.image), rng)
    return Example(image, canvas.labels, below.objects + tuple(range(first, first + count)))


def drawn(
    rng: np.random.Generator,
    size: int,
    textures: Sequence[Image.Image],
    thin_share: float,
    widths: tuple[float, float] = THIN,
) -> Layer:
    """A drawn object, solid or (with probability thin_share) thin, for a canvas of that size.

    Most thin things are of one material: a photograph seen through a wire is hardly a texture.
    """
    slender = rng.random() < thin_share
    low, high = (0.2, 1.0) if slender else (0.08, 0.7)
    width, height = (max(12, int(size * np.exp(rng.uniform(np.log(low), np.log(high))))) for _ in range(2))
    mask = thin(rng, width, height, widths) if slender else solid(rng, width, height)
    return Layer(fill(rng, width, height, textures, photographed=0.2 if slender else 0.6), mask)


def cut_out(photo: Photo, rng: np.random.Generator, size: int) -> Layer:
    """One object of a photograph, scaled, turned and recoloured; a drawn one where it has none."""
    labels = np.asarray(photo.labels)
    areas = np.bincount(labels.ravel(), minlength=256)
    large = [label for label in photo.things if areas[label] >= 1000]
    if not large:
        return drawn(rng, size, [photo.image], thin_share=0.0)
    chosen = labels == large[rng.integers(len(large))]
    x0, y0, x1, y1 = (int(side) for side in tight_box(chosen))
    box = (x0, y0, x1 + 1, y1 + 1)
    sides = np.array([x1 + 1 - x0, y1 + 1 - y0])
    target = size * np.exp(rng.uniform(np.log(0.12), np.log(0.9)))
    scale = min(target / sides.max(), 1.5) * rng.uniform(0.85, 1.15, 2)
    width, height = (max(4, round(side)) for side in sides * scale)
    piece = photo.image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    mask = Image.fromarray(np.where(chosen, 255, 0).astype(np.uint8))
    mask = mask.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        piece, mask = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (piece, mask))
    if rng.random() < 0.4:
        angle = rng.uniform(-40, 40)
        piece = piece.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        mask = mask.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return Layer(Image.fromarray(_recolour(np.asarray(piece), rng)), mask)


def _recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Other light, other camera: gain and shift of every channel, contrast, sometimes grey, blur or noise."""
    picture = Image.fromarray(image)
    if rng.random() < 0.8:
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
        shift = rng.uniform(-20, 20) + rng.uniform(-8, 8, 3)
        levels = (np.arange(256) - 128) * gain[:, None] + 128 + shift[:, None]  # [3, 256]
        picture = picture.point(levels.clip(0, 255).astype(int).ravel().tolist())
    if rng.random() < 0.08:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < 0.15:
        noise = rng.uniform(2, 10) * rng.standard_normal(image.shape, np.float32)
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.12:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return np.asarray(picture)


@dataclass(frozen=True)
class Prompts:
    """How many prompts an image gets.

    Attributes:
        boxes: how many boxes.
        points: how many objects asked for by points.
        clicks: points for each of those; all but the first may lie outside the object.
    """

    boxes: int = 5
    points: int = 3
    clicks: int = 3


class Samples(Dataset[dict[str, Tensor]]):
    """Sample i is a function of seed, size and i alone: a run that resumes goes on with the same samples.

    An item holds, with P = boxes + points:
        image: uint8 [3, S, S].
        masks: uint8 [P, S / 2, S / 2], how many of each 2 x 2 pixels are covered; first those of the boxes.
        known: uint8 [S / 2, S / 2], of how many of each 2 x 2 pixels it is known what they show.
        boxes: float32 [boxes, 4], x0 y0 x1 y1 in pixels.
        points: float32 [points, clicks, 2], x y in pixels.
        point_labels: int64 [points, clicks], 1 inside and 0 outside; the first is inside.
        chances: float32 [P], 0..1: where, among all places that are wrong, the next click is.
    """

    def __init__(
        self, photos: Photos, size: int, start: int, stop: int, seed: int = 0, prompts: Prompts | None = None
    ) -> None:
        self.photos = photos
        self.size = size
        self.start = start
        self.stop = stop
        self.seed = seed
        self.prompts = prompts or Prompts()

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.start + index))
        while True:
            example = self._example(rng)
            if masks := targets(example):
                return ask(example, masks, self.prompts, rng)

    def _example(self, rng: np.random.Generator) -> Example:
        if rng.random() < COMPOSED:
            return composition(self.photos, rng, self.size)
        return view(self.photos.pick(rng), rng, self.size)


def ask(
    example: Example, masks: Sequence[NDArray[np.bool_]], prompts: Prompts, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Draw prompts for an example's masks; every one is asked for before any is asked for again."""
    count = prompts.boxes + prompts.points
    order = np.concatenate([rng.permutation(len(masks)) for _ in range(-(-count // len(masks)))])[:count]
    order = rng.permutation(order)  # or points would only ask for what is asked for again
    asked = np.stack([masks[place] for place in order])  # [P, S, S]
    boxes = np.stack([_box(mask, rng) for mask in asked[: prompts.boxes]])
    clicked = [_clicks(mask, prompts.clicks, rng) for mask in asked[prompts.boxes :]]
    return {
        "image": torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1))),
        "masks": torch.from_numpy(_halved(asked)),
        "known": torch.from_numpy(_halved(example.labels != UNKNOWN)),
        "boxes": torch.from_numpy(boxes),
        "points": torch.from_numpy(np.stack([where for where, _ in clicked])),
        "point_labels": torch.from_numpy(np.stack([inside for _, inside in clicked])),
        "chances": torch.from_numpy(rng.random(count, np.float32)),
    }


def _halved(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[..., S, S] -> how many of 2 x 2 pixels are true [..., S / 2, S / 2]: the resolution of the answers."""
    pixels = masks.view(np.uint8)
    rows = pixels[..., ::2, :] + pixels[..., 1::2, :]
    return np.asarray(rows[..., ::2] + rows[..., 1::2])


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """x0 y0 x1 y1 of the outermost pixels of a mask [H, W] that is not empty."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([x[0], y[0], x[-1], y[-1]], np.float32)


def _box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """The tight box, half of the time shifted at every side by some 5 % of the box, as a person draws it."""
    box = tight_box(mask)
    if rng.random() < 0.5:
        return box
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + np.clip(rng.normal(0, 0.05 * sides), -16, 16)
    return np.clip(moved, 0, mask.shape[0] - 1).astype(np.float32)


def _clicks(
    mask: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points [count, 2] in and around a mask, and whether they are inside [count]."""
    inside = np.argwhere(mask)
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    around = np.argwhere(~mask[y0 : y1 + 1, x0 : x1 + 1]) + np.array([y0, x0])
    labels = np.array([1] + [int(rng.random() < 0.6 or len(around) == 0) for _ in range(count - 1)])
    places = [
        (inside if label else around)[rng.integers(len(inside if label else around))] for label in labels
    ]
    return np.stack(places)[:, ::-1].astype(np.float32), labels


def thin_set(photos: Photos, size: int, count: int = 40, seed: int = 0) -> list[Example]:
    """Scenes of thin objects over the held-out photographs, always the same ones, to validate on.

    At a quarter of the input's resolution, SAM's for patches of 16, even the best answer to a thinner line is
    coarse: logits fitted to the true masks reach a mean IoU of 0.93 at these widths, and 0.84 at 1.5 to 6.
    """
    textures = [photo.image for photo in photos.held_out if photo.source == PANOPTIC]
    scenes = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        below = fill(rng, size, size, textures)
        canvas = Canvas(below, np.zeros((size, size), np.uint8))
        for label in range(1, 5):
            layer = drawn(rng, size, textures, thin_share=1.0, widths=SLENDER)
            left, top = (int(rng.uniform(0, size - side)) for side in layer.mask.size)
            canvas.put(layer, left, top, label)
        scenes.append(Example(np.array(canvas.image), canvas.labels, (1, 2, 3, 4)))
    return scenes
