"""Several objects in each picture: a folder of pictures and one of pictures whose values number the objects.

``labels``, for pictures of one's own, of any kind that Pillow reads::

    FOLDER/
        images/NAME.jpg
        labels/NAME.png             one channel of 8 or 16 bits: 0 is no object, k is object k

``held-out`` is a folder of such folders, as ``scripts/held_out.py`` writes it: photographs, salient objects,
thin structures, and drawn wires, poles and branches, none of which the small model was trained on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import Annotated, Object
from .files import check_size, locate, pairs, read_ids


@dataclass(frozen=True, kw_only=True)
class Labelled(Annotated):
    """A picture with the numbers of the objects that its pixels belong to."""

    labels: Path

    def _decode(self) -> list[Object]:
        ids = read_ids(self.labels)
        check_size(self.picture, self.labels, ids.shape)
        present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
        return [Object(ids == label) for label in present if label]


def read_labels(root: Path, split: str) -> list[Annotated]:
    """The pictures, sorted by name.

    Raises:
        UserError: the layout is not there, or a picture has no labels.
    """
    return _read(root, "")


def read_held_out(root: Path, split: str) -> list[Annotated]:
    """The pictures of a split, sorted by name; raises as `read_labels` does."""
    return _read(root, f"{split}/")


def _read(root: Path, under: str) -> list[Annotated]:
    found = pairs(*locate(root, [(f"{under}images", f"{under}labels")]))
    return [Labelled(name=name, picture=picture, labels=ids) for name, (picture, ids) in found.items()]
