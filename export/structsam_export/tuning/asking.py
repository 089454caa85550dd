"""Pictures, and what is asked about each: boxes of a person, or a grid of boxes and points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.predict.prompts import Encoded, encode

from ..comparing import digest
from ..verify import Sample, samples

SIDE = 3
"""Rows and columns of the grid."""
DIGITS = 24
"""Of a digest."""


def grid(frame: Frame, boxes_only: bool = False) -> Encoded:
    """A grid of box and point prompts over a picture.

    Args:
        frame: placement of the picture in the square input.
        boxes_only: leave points out, for models that were trained on boxes alone.

    Returns:
        9 boxes of two fifths of the picture's sides, and 9 points at their centres.
    """
    steps = np.arange(1, SIDE + 1) / (SIDE + 1)
    x, y = np.meshgrid(steps * frame.width, steps * frame.height)
    centers = np.stack([x.ravel(), y.ravel()], -1)  # [P, 2] pixels of the picture
    half = np.array([frame.width, frame.height]) / 5
    boxes = encode(frame, box=np.concatenate([centers - half, centers + half], 1))
    if boxes_only:
        return boxes
    points = encode(frame, point_coords=centers[:, None], point_labels=np.ones((len(centers), 1)))
    return Encoded(
        np.concatenate([boxes.point_coords, points.point_coords]),
        np.concatenate([boxes.point_labels, points.point_labels]),
        batched=True,
    )


@dataclass(frozen=True)
class Picture:
    """A picture and its prompts.

    Attributes:
        sample: the picture, prepared for the encoder.
        prompts: boxes and points to ask about, in the model's frame.
    """

    sample: Sample
    prompts: Encoded

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.sample.name

    @cached_property
    def digest(self) -> str:
        """Tells its pixels from those of other pictures."""
        return digest(self.sample.pixels)[:DIGITS]

    @cached_property
    def asked(self) -> str:
        """Tells its prompts from others."""
        return digest(self.prompts.point_coords, self.prompts.point_labels)[:DIGITS]


def pictures_of(
    images: Mapping[str, NDArray[np.uint8]],
    model: Model,
    boxes: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> list[Picture]:
    """Pictures as `tune` takes them.

    Args:
        images: uint8 RGB [H, W, 3] by name.
        model: sizes and normalisation.
        boxes: of every picture, x0, y0, x1, y1 in its pixels, at least one; None for the grid.

    Raises:
        UserError: a box is not possible, see `encode`.
    """
    made = []
    for sample in samples(dict(images), model):
        asked = boxes and encode(sample.frame, box=np.array(boxes[sample.name], np.float64))
        made.append(Picture(sample, asked or grid(sample.frame, model.boxes_only)))
    return made
