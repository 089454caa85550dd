"""The pictures of a folder for a search, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime.batch.boxes import match, read_boxes, sound_boxes, told
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.pictures import Once, list_pictures, read_image, say
from structsam_runtime.predict.image import Frame

from .asking import Picture, pictures_of

ALIKE = 0.97
"""Correlation of two thumbnails from which pictures count as alike, such as frames of one video."""
FEW = 6
"""Pictures with fewer different ones among them give an interval that says little about others."""
Boxes = Mapping[str, Sequence[Sequence[float]]]


def read(folder: Path, number: int, prompts: Path | None, model: Model) -> list[Picture]:
    """Pictures of a folder with their prompts; what is left out is said on stderr.

    Args:
        folder: also looked into are the folders in it.
        number: of pictures at most, evenly spaced over the sorted names.
        prompts: a file of boxes, as `structsam batch` takes it; pictures without a box are left out. None for
            a grid of boxes and points.
        model: sizes and normalisation.

    Raises:
        UserError: no such folder or file, or a picture in the file that the folder lacks.
    """
    listing = list_pictures(folder)
    names, boxes = listing.pictures, None
    if prompts is not None:
        boxes = match(read_boxes(prompts), names, prompts, folder)
        names = [name for name in names if boxes.get(name)]
    listing.say()
    places = np.linspace(0, len(names) - 1, min(number, len(names))).round().astype(int)
    made: dict[str, Picture] = {}
    note = Once()
    for name in (names[place] for place in places):
        try:
            image = read_image(folder / name, note=note)
            (picture,) = pictures_of(
                {name: image}, model, None if boxes is None else _sound(boxes, name, image, model)
            )
        except UserError as error:
            say("skipped", f"{name}: {error}; it is left out")
            continue
        if picture.digest in made:
            say("skipped", f"{name} is the same picture as {made[picture.digest].name}; it is left out")
        made.setdefault(picture.digest, picture)
    return list(made.values())


def _sound(boxes: Boxes, name: str, image: NDArray[np.uint8], model: Model) -> Boxes:
    """The boxes of a picture that can be answered; what is wrong with others is said."""
    frame = Frame.of(image.shape[0], image.shape[1], model.image_size, model.fit)
    sound, errors = sound_boxes(boxes[name], frame)
    if line := told(errors, boxes[name]):
        say("skipped", f"{name}: {line}")
    return {name: sound}


def caution(pictures: Sequence[Picture]) -> str | None:
    """A line if the interval of these pictures will say little about others; None if it should say enough.

    Args:
        pictures: that recipes are tried on.
    """
    different = len(distinct([picture.sample.pixels for picture in pictures]))
    if different >= FEW:
        return None
    if different == len(pictures):
        return f"recipes are tried on {len(pictures)} pictures: the interval is wide; give more pictures"
    return (
        f"only {different} of the {len(pictures)} pictures that recipes are tried on differ much: the "
        "interval speaks for pictures like these; give more different ones"
    )


def distinct(pictures: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Indices of pictures [H, W, 3] that are unlike all before them."""
    kept: list[int] = []
    thumbs: list[NDArray[np.float64]] = []
    for index, pixels in enumerate(pictures):
        small = np.asarray(Image.fromarray(pixels).convert("L").resize((24, 24)), np.float64).ravel()
        thumb = (small - small.mean()) / max(float(np.linalg.norm(small - small.mean())), 1e-9)
        if all(float(thumb @ other) < ALIKE for other in thumbs):
            kept.append(index)
            thumbs.append(thumb)
    return kept
