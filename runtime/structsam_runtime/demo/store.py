"""The pictures that a server keeps: the newest few, under names that nobody can guess."""

import hashlib
import io
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .asked import RefusedError
from .exports import Look

PREVIEW = 1600
"""Longest side of a picture as the page shows it."""


@dataclass(frozen=True)
class Picture:
    """A picture that every export has encoded.

    Attributes:
        id: its name in requests.
        height, width: in pixels.
        preview: a JPEG of it, of PREVIEW pixels at most.
        looks: what each export keeps of it, by the export's name.
        notes: what a person should know of how it was read.
    """

    id: str
    height: int
    width: int
    preview: bytes
    looks: Mapping[str, Look]
    notes: Sequence[str] = ()

    def fitted(self, side: int | None) -> tuple[int, int]:
        """Height and width of the picture, its longer side reduced to `side`."""
        longest = max(self.height, self.width)
        if side is None or side >= longest:
            return self.height, self.width
        return max(1, round(self.height * side / longest)), max(1, round(self.width * side / longest))


class Store:
    """Pictures by id. A new one takes the place of the one that was asked for least recently.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._pictures = most, OrderedDict[str, Picture]()
        self._secret = secrets.token_bytes(32)

    def name(self, content: bytes) -> str:
        """The id of a picture's file: the same for the same bytes while the server runs, hard to guess."""
        return hashlib.blake2b(content, key=self._secret, digest_size=16).hexdigest()

    def put(self, picture: Picture) -> None:
        """Keep a picture."""
        self._pictures[picture.id] = picture
        self._pictures.move_to_end(picture.id)
        while len(self._pictures) > self._most:
            self._pictures.popitem(last=False)

    def find(self, name: str) -> Picture | None:
        """The picture of an id, if it is still kept."""
        if name in self._pictures:
            self._pictures.move_to_end(name)
        return self._pictures.get(name)

    def get(self, name: str) -> Picture:
        """The picture of an id.

        Raises:
            RefusedError: there is none.
        """
        picture = self.find(name)
        if picture is None:
            raise RefusedError(
                404, f"no picture '{name:.40}'; the newest {self._most} are kept, send it again to /embed"
            )
        return picture


def preview(rgb: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 RGB [H, W, 3], as a JPEG of PREVIEW pixels at most."""
    image, file = Image.fromarray(rgb), io.BytesIO()
    image.thumbnail((PREVIEW, PREVIEW))
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
