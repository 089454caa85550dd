"""Cityscapes: instances of eight classes in street scenes, splits val and train.

::

    cityscapes/
        leftImg8bit/val/CITY/CITY_000000_000294_leftImg8bit.png
        gtFine/val/CITY/CITY_000000_000294_gtFine_instanceIds.png       16 bits

An id of 1000 and more is class * 1000 + number of the instance. A class without a number is a group whose
members could not be told apart: a crowd region.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError
from .base import Annotated, Object
from .files import check_size, locate, read_ids

# person, rider, car, truck, bus, train, motorcycle, bicycle: the classes whose instances are scored.
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
PICTURE, IDS = "_leftImg8bit.png", "_gtFine_instanceIds.png"


@dataclass(frozen=True, kw_only=True)
class Street(Annotated):
    """A picture with the ids of its instances."""

    ids: Path

    def _decode(self) -> list[Object]:
        ids = read_ids(self.ids)
        check_size(self.picture, self.ids, ids.shape)
        found = []
        for number in np.flatnonzero(np.bincount(ids.ravel())).tolist():
            crowd = number < 1000
            category = number if crowd else number // 1000
            if category in THINGS:
                found.append(Object(ids == number, category, crowd))
        return found


def read_cityscapes(root: Path, split: str) -> list[Annotated]:
    """The annotated pictures of the split, by city.

    Raises:
        UserError: the layout is not there, or it holds no instance ids.
    """
    images, drawn = locate(root, [(f"leftImg8bit/{split}", f"gtFine/{split}")])
    found = sorted(drawn.glob(f"*/*{IDS}"))
    if not found:
        raise UserError(f"no CITY/*{IDS} in {drawn}; unpack gtFine_trainvaltest.zip there")
    names = [(path, path.name.removesuffix(IDS)) for path in found]
    return [
        Street(name=name, picture=images / path.parent.name / f"{name}{PICTURE}", ids=path)
        for path, name in names
    ]
