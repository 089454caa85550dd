"""The one place where files become Pillow's images: whatever goes wrong in it is one line."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from PIL import Image, ImageFile

from ..errors import UserError
from .formats import FORMATS, PROGRAMS, foreign
from .jpeg import scans
from .tolerant import READERS

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image
"""A path, the bytes of a file, a file that is open for reading bytes, or a picture that Pillow has opened."""

MAX_PIXELS = 110_000_000
"""More than nearly all cameras have; the hungriest format, JPEG 2000, takes 2 GB of memory for as many."""
MAX_SIDE = 65_535
"""What JPEG can hold. Strips of millions of pixels by a few keep decoders busy for minutes."""
PILLOWS = Image.MAX_IMAGE_PIXELS or MAX_PIXELS
_LIMIT = threading.RLock()
PASSES = 24
"""How many times a decoder may go through ``max_pixels`` pixels; a progressive JPEG has some ten scans."""
HEAD = 132
"""Bytes at the beginning that tell what a file is."""


class TooLargeError(UserError):
    """A picture has more pixels than are allowed."""


@contextmanager
def opened(source: Source, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture as Pillow does, but only in the formats of `FORMATS`, within bounds, and without mmap.

    Args:
        source: what is opened. An open file is read from its beginning and stays open.
        max_pixels: a larger picture is refused before it is decoded.

    Yields:
        The image, not yet decoded.

    Raises:
        UserError: there is no such file, it is not a regular one, is no picture, is damaged or too large;
            and for every other exception inside the block, MemoryError included.
    """
    name = name_of(source)
    # Pillow warns about metadata that nothing here uses, and about formats that it will lose. Set each time,
    # because filters are reset around every test.
    for category in (UserWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"PIL\.")
    try:
        if isinstance(source, Image.Image):
            yield _bounded(source, name, max_pixels)
            return
        with _file(source, name) as file:
            with _allowed(max_pixels):
                image = _bounded(_identified(file, name), name, max_pixels)
            if image.format == "JPEG":
                _check_scans(image, file, name, max_pixels)
            if image.format == "DDS":
                _check_length(image, file, name)
            with _allowed(image.width * image.height):
                yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"no file {name}; expected a picture") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            f"{name} is too large: {error} Make it smaller, or allow more with --max-pixels (max_pixels)"
        ) from error
    except MemoryError as error:
        raise UserError(f"{name} cannot be read as a picture: it takes more memory than there is") from error
    except Exception as error:  # Pillow's decoders raise nearly everything when they meet damage
        raise UserError(f"{name} cannot be read as a picture: {_reason(error)}") from error


def name_of(source: Source) -> str:
    """What a picture is called in messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) else "the picture"


@contextmanager
def _file(source: Any, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, (str, os.PathLike)):
        mode = Path(source).stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would be waited for, a device may have no end
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise UserError(f"{name} cannot be read as a picture: it is {what}")
        with Path(source).open("rb") as file:
            yield file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif not hasattr(source, "read"):
        raise UserError(
            f"a picture came as {type(source).__name__}, expected a path, bytes, an open file or a PIL image"
        )
    elif isinstance(source, io.TextIOBase):
        raise UserError(f"{name} was opened as text; open it with mode 'rb'")
    elif getattr(source, "seekable", lambda: False)():
        source.seek(0)
        yield source
    else:
        yield io.BytesIO(source.read())


def _identified(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """`Image.open`, whose limit of pixels is one number for the whole process."""
    head, reason = file.read(HEAD), ""
    for kind in FORMATS:
        if kind not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None:
            continue
        accepted: bool | str = False
        try:
            accepted = accept is None or accept(head[:16])
            if isinstance(accepted, str):  # Pillow was built without it
                reason = accepted
            elif accepted:
                file.seek(0)
                image = READERS.get(kind, factory)(file, "")
                if all(image.size):
                    return image
        except Image.DecompressionBombError:
            raise
        except Exception as error:  # it may be another format
            reason = reason or (f"{kind}: {_reason(error)}" if accept and accepted else "")
    other = foreign(head)
    if other:
        raise UserError(f"{name} is {other}; convert it to PNG or JPEG")
    why = f" ({reason})" if reason else "" if head else " (it is empty)"
    raise UserError(f"{name} is not a picture that Pillow can read{why}; expected PNG, JPEG, TIFF ...")


def _bounded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(
            f"{name} is too large: {width} x {height} pixels, more than {max_pixels}; make it smaller, or"
            f" allow as many (--max-pixels {width * height}, in Python max_pixels)"
        )
    if max(width, height) > MAX_SIDE:
        raise TooLargeError(
            f"{name} has {width} x {height} pixels, and a side of more than {MAX_SIDE}; cut it"
        )
    if image.format in PROGRAMS and getattr(image, "tile", None):
        raise UserError(f"{name} is {image.format}, which another program would draw; convert it to PNG")
    return image


@contextmanager
def _allowed(pixels: int) -> Iterator[None]:
    """Raise Pillow's own limit, one number for the process, which some decoders and `crop` look at again."""
    if pixels <= PILLOWS:
        yield
        return
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_scans(image: Image.Image, file: BinaryIO, name: str, max_pixels: int) -> None:
    place = file.tell()
    file.seek(0)
    count = scans(file.read())
    file.seek(place)
    if count * image.width * image.height > PASSES * max_pixels:
        raise TooLargeError(
            f"{name} is too large: {count} scans of {image.width} x {image.height} pixels, each of which goes"
            " through the whole picture; save it again"
        )


def _check_length(image: Image.Image, file: BinaryIO, name: str) -> None:
    """Some versions of Pillow go on, pixel by pixel, behind the end of a file without compression."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    tiles: list[Any] = getattr(image, "tile", [])
    for codec, _, offset, args in tiles:
        if codec == "dds_rgb" and offset + args[0] // 8 * image.width * image.height > size:
            raise UserError(f"{name} cannot be read as a picture: the file is cut short")


def _reason(error: Exception) -> str:
    text = str(error)
    return text if text and not isinstance(error, LookupError) else repr(error)
