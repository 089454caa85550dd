"""ADE20K's scene parsing benchmark: every pixel has one of 150 classes, splits validation and training.

::

    ADEChallengeData2016/
        images/validation/*.jpg
        annotations/validation/*.png        ids of classes, 0 is unlabelled

It tells classes and not instances: one object here is the whole region of a class in the picture, which may
lie in several pieces.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import Annotated, Object
from .files import check_size, locate, pairs, read_ids


@dataclass(frozen=True, kw_only=True)
class Scene(Annotated):
    """A picture with the classes of its pixels."""

    classes: Path

    def _decode(self) -> list[Object]:
        ids = read_ids(self.classes)
        check_size(self.picture, self.classes, ids.shape)
        present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
        return [Object(ids == category, category) for category in present if category]


def read_ade20k(root: Path, split: str) -> list[Annotated]:
    """The pictures of the split, sorted by name.

    Raises:
        UserError: the layout is not there, or a picture has no annotation.
    """
    layout = f"images/{split}", f"annotations/{split}"
    found = pairs(*locate(root, [layout], ["ADEChallengeData2016"]))
    return [Scene(name=name, picture=picture, classes=ids) for name, (picture, ids) in found.items()]
