"""Samples to train on: photographs with COCO panoptic annotations, and compositions on top of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from structsam_runtime.errors import UserError
from structsam_runtime.predict.image import read_image

from .scenes import THIN, Canvas, Layer, fill, solid, thin

HELD_OUT = 20
"""Annotated pictures kept for validation: the last ones by id."""
SLENDER = (3.0, 10.0)
"""Widths of strokes, in pixels of the final size, that thin objects are validated with: see `thin_set`."""
FINAL = 512
"""Pixels of the longest side of a picture at the size that training ends with."""
PADDING = (124, 116, 104)
"""SAM's mean pixel: what its padding with zeros after normalisation is, as a colour."""


@dataclass(frozen=True)
class Photo:
    """A photograph and its segments.

    Attributes:
        id: COCO's.
        image: RGB, W x H.
        labels: L, W x H: 0 is unlabelled or a crowd, k is segment k.
        things: the labels of countable objects; all others are stuff.
    """

    id: int
    image: Image.Image
    labels: Image.Image
    things: tuple[int, ...]


@dataclass(frozen=True)
class Photos:
    """A folder of COCO pictures, divided.

    Attributes:
        train: annotated, to train on.
        held_out: annotated, to validate on.
        plain: without annotations; backgrounds and textures.
    """

    train: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    plain: tuple[Photo, ...]

    @property
    def textures(self) -> tuple[Image.Image, ...]:
        """Every picture that is not held out."""
        return tuple(photo.image for photo in self.train + self.plain)


def read_photos(folder: Path) -> Photos:
    """Read a folder in COCO's panoptic layout: images/ID.jpg, annotations/panoptic_*.json and its PNGs.

    Raises:
        UserError: no annotations, or too few pictures to hold any out.
    """
    listings = sorted(folder.glob("annotations/panoptic_*.json"))
    if not listings:
        raise UserError(f"no annotations/panoptic_*.json in {folder}; give --data a COCO panoptic folder")
    listing = json.loads(listings[0].read_text())
    countable = {category["id"] for category in listing["categories"] if category["isthing"]}
    masks = listings[0].with_suffix("")
    annotated = [
        _annotated(folder, masks, annotation, countable)
        for annotation in sorted(listing["annotations"], key=lambda item: int(item["image_id"]))
    ]
    if len(annotated) <= HELD_OUT:
        raise UserError(f"{folder} has {len(annotated)} annotated pictures; expected more than {HELD_OUT}")
    known = {photo.id for photo in annotated}
    others = [path for path in sorted(folder.glob("images/*.jpg")) if int(path.stem) not in known]
    plain = [_plain(path) for path in others]
    return Photos(tuple(annotated[:-HELD_OUT]), tuple(annotated[-HELD_OUT:]), tuple(plain))


def _annotated(folder: Path, masks: Path, annotation: dict[str, object], countable: set[int]) -> Photo:
    id = int(str(annotation["image_id"]))
    segments: list[dict[str, int]] = annotation["segments_info"]  # type: ignore[assignment]
    colours = read_image(masks / str(annotation["file_name"])).astype(np.int64)  # [H, W, 3]
    ids = colours @ np.array([1, 256, 65536])
    labels = np.zeros(ids.shape, np.uint8)
    for label, segment in enumerate(segments, start=1):
        if not segment["iscrowd"]:
            labels[ids == segment["id"]] = label
    things = tuple(
        label
        for label, segment in enumerate(segments, start=1)
        if segment["category_id"] in countable and not segment["iscrowd"]
    )
    image = Image.fromarray(read_image(folder / "images" / f"{id:012d}.jpg"))
    return Photo(id, image, Image.fromarray(labels), things)


def _plain(path: Path) -> Photo:
    image = Image.fromarray(read_image(path))
    return Photo(int(path.stem), image, Image.new("L", image.size), ())


@dataclass(frozen=True)
class Example:
    """A picture with its objects.

    Attributes:
        image: uint8 [S, S, 3].
        labels: uint8 [S, S].
        objects: the labels that may be asked for.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: tuple[int, ...]


def view(photo: Photo, rng: np.random.Generator, size: int) -> Example:
    """A photograph, whole or cropped, at a random scale, flipped or not, padded to size x size.

    Scales reach from the whole picture in view to 1.6 times the pixels of the final size, so that detail of
    the final size is seen however small the input is.
    """
    longest = max(photo.image.size)
    whole = size / longest
    widest = np.log(0.8 * whole), np.log(1.6 * max(FINAL, size) / longest)
    scale = whole if rng.random() < 0.3 else float(np.exp(rng.uniform(*widest)))
    w, h = min(photo.image.width, size / scale), min(photo.image.height, size / scale)
    left, top = rng.uniform(0, photo.image.width - w), rng.uniform(0, photo.image.height - h)
    box, shape = (left, top, left + w, top + h), (min(size, round(w * scale)), min(size, round(h * scale)))
    piece = photo.image.resize(shape, Image.Resampling.BILINEAR, box=box)
    marked = photo.labels.resize(shape, Image.Resampling.NEAREST, box=box)
    if rng.random() < 0.5:
        piece, marked = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (piece, marked))
    image = np.full((size, size, 3), PADDING, np.uint8)
    labels = np.zeros((size, size), np.uint8)
    image[: shape[1], : shape[0]] = _recolour(np.asarray(piece), rng)
    labels[: shape[1], : shape[0]] = np.asarray(marked)
    stuff = tuple(set(np.unique(labels).tolist()) - {0} - set(photo.things))
    return Example(image, labels, photo.things + (stuff if rng.random() < 0.35 else ()))


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
    first = int(below.labels.max()) + 1
    count = min(int(rng.integers(2, 10)), 255 - first)
    cut, slender = rng.choice([0.0, 0.3, 0.9]), rng.uniform(0.1, 0.9)
    for label in range(first, first + count):
        if rng.random() < cut:
            layer = cut_out(photos.train[rng.integers(len(photos.train))], rng, size)
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
    changed = image.astype(np.float32)
    if rng.random() < 0.8:
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
        shift = rng.uniform(-20, 20) + rng.uniform(-8, 8, 3)
        changed = ((changed - 128) * gain + 128 + shift).astype(np.float32)
    if rng.random() < 0.08:
        changed[:] = changed.mean(axis=2, keepdims=True)
    if rng.random() < 0.15:
        changed += rng.normal(0, rng.uniform(2, 10), changed.shape).astype(np.float32)
    result = changed.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))
        result = np.asarray(Image.fromarray(result).filter(blur))
    return result


@dataclass(frozen=True)
class Prompts:
    """How many prompts an image gets.

    Attributes:
        boxes: how many boxes.
        points: how many objects asked for by points.
        clicks: points for each of those; all but the first may lie outside the object.
    """

    boxes: int = 8
    points: int = 3
    clicks: int = 3


class Samples(Dataset[dict[str, Tensor]]):
    """Sample i is a function of the seed and i alone: a run that resumes goes on with the same samples.

    An item holds, with P = boxes + points:
        image: uint8 [3, S, S].
        masks: float32 [P, S / 2, S / 2], how much of each 2 x 2 pixels is covered; first those of the boxes.
        boxes: float32 [boxes, 4], x0 y0 x1 y1 in pixels.
        points: float32 [points, clicks, 2], x y in pixels.
        point_labels: int64 [points, clicks], 1 inside and 0 outside; the first is inside.
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
            areas = np.bincount(example.labels.ravel(), minlength=256)
            large = [label for label in example.objects if areas[label] >= 100]
            if large:
                return ask(example, large, self.prompts, rng)

    def _example(self, rng: np.random.Generator) -> Example:
        if rng.random() < 0.45:
            train = self.photos.train
            return view(train[rng.integers(len(train))], rng, self.size)
        return composition(self.photos, rng, self.size)


def ask(
    example: Example, objects: Sequence[int], prompts: Prompts, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Draw prompts for an example; every object is asked for before any is asked for again."""
    count = prompts.boxes + prompts.points
    order = np.concatenate([rng.permutation(objects) for _ in range(-(-count // len(objects)))])[:count]
    order = rng.permutation(order)  # or points would only ask for what is asked for again
    masks = example.labels == order[:, None, None].astype(np.uint8)  # [P, S, S]
    boxes = np.stack([_box(mask, rng) for mask in masks[: prompts.boxes]])
    clicked = [_clicks(mask, prompts.clicks, rng) for mask in masks[prompts.boxes :]]
    return {
        "image": torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1))),
        "masks": torch.from_numpy(_halved(masks)),
        "boxes": torch.from_numpy(boxes),
        "points": torch.from_numpy(np.stack([where for where, _ in clicked])),
        "point_labels": torch.from_numpy(np.stack([inside for _, inside in clicked])),
    }


def _halved(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[P, S, S] -> the means of 2 x 2 pixels [P, S / 2, S / 2]: twice as fine as the decoder's answers."""
    rows = masks[:, ::2].astype(np.float32) + masks[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4, np.float32)


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

    SAM answers with a quarter of the input's resolution, so even the best answer to a thinner line is coarse:
    logits fitted to the true masks reach a mean IoU of 0.93 at these widths, and 0.84 at 1.5 to 6 pixels.
    """
    textures = [photo.image for photo in photos.held_out]
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
