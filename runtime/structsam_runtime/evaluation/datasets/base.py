"""What every dataset gives: pictures, and the objects in them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...pictures import Once, read_image

_note = Once()

Box: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; (x1, y1) is the last pixel inside, not the first one outside."""


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """The tight box of a mask: smallest and largest coordinates of its pixels (paper, appendix B).

    Both corners are pixels of the mask, so that a single pixel (x, y) has the box (x, y, x, y).

    Args:
        mask: bool [H, W].

    Returns:
        x0, y0, x1, y1 in pixels; None where the mask is empty, because it has no box.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


@dataclass(frozen=True, eq=False)
class Object:
    """One annotated object."""

    mask: NDArray[np.bool_]  # [H, W], of the picture's size
    category: int = 1  # the dataset's own number of the class; 1 where it has none
    crowd: bool = False  # a group drawn as one: neither a prompt nor something to be missed

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> Box | None:
        """:func:`box_of` the mask: None where it is empty, so that whoever prompts has to count it."""
        return box_of(self.mask)


@dataclass(frozen=True, kw_only=True)
class Annotated(ABC):
    """One picture and the objects in it. Nothing is read before it is asked for, and nothing is kept."""

    name: str  # unique within the dataset and the same every time: what a run resumes by
    picture: Path
    min_area: int = 0  # pixels; smaller objects are left out

    def image(self) -> NDArray[np.uint8]:
        """The picture: uint8 RGB [H, W, 3].

        Raises:
            UserError: the file is missing or broken.
        """
        return read_image(self.picture, note=_note)

    def objects(self) -> list[Object]:
        """The objects of at least ``min_area`` pixels, and every crowd region.

        The masks are decoded by each call. With ``min_area`` 0, objects with an empty mask are among them.

        Raises:
            UserError: the annotation is missing, broken, or of another size than the picture.
        """
        try:
            drawn = self._decode()
        except UserError:
            raise
        except Exception as error:  # what annotation files hold has no bounds
            raise UserError(f"the annotation of {self.name} cannot be read: {error!r}") from error
        return [found for found in drawn if found.crowd or found.area >= self.min_area]

    @abstractmethod
    def _decode(self) -> list[Object]:
        """All objects that are annotated."""
