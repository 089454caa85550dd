"""Drawings and masks to files, in any format that Pillow writes."""

import io
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..files import whole_file
from .formats import FORMATS


def check_holds(path: Path, mode: str, height: int, width: int) -> None:
    """Refuse a file whose format cannot hold a picture, before any work is done for it.

    Writes and reads a picture of the same width and one of the same height, each a pixel thin.

    Args:
        path: its suffix is of a format that Pillow writes.
        mode: of the picture, ``RGB`` or ``L``.
        height, width: pixels.

    Raises:
        UserError: the format has no such colours, or is limited to smaller pictures.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    for size in {(width, 1), (1, height)}:
        held = io.BytesIO()
        try:
            Image.new(mode, size).save(held, kind)
            came = size
            if kind in FORMATS:
                with Image.open(held, formats=[kind]) as image:
                    came = image.size
        except Exception as error:  # each format says in its own way what it cannot do
            raise _cannot(path, kind, height, width, str(error)) from error
        if came != size:
            raise _cannot(path, kind, height, width, "it makes it smaller")


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all, in the format that the suffix says.

    Raises:
        UserError: the file cannot be written, or its format cannot hold the picture.
    """
    with whole_file(path) as part:
        try:
            picture.save(part)
        except OSError:
            raise
        except Exception as error:
            kind = Image.registered_extensions()[path.suffix.lower()]
            raise _cannot(path, kind, picture.height, picture.width, str(error)) from error


def _cannot(path: Path, kind: str, height: int, width: int, reason: str) -> UserError:
    return UserError(
        f"cannot write {path}: {kind} cannot hold {width} x {height} pixels of colour or grey ({reason}); use"
        " .png"
    )
