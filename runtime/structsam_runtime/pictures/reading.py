"""Pictures of every kind as uint8 RGB."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ..errors import UserError
from .levels import scale, spread
from .notes import Note, say
from .opening import MAX_PIXELS, Source, name_of, opened
from .tiff import lay_out, stored_size, value_type, white_is_zero

STRIP = 2**22
"""Pixels that are converted at a time, so that a large picture is in memory once and not three times."""
UNPACKED = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
"""Straight to RGB, a transparent palette or premultiplied alpha would blend."""
ONE_PICTURE = ("MPO", "PSD")
"""Formats whose other frames are previews or layers of the first."""


def read_image(source: Source, max_pixels: int = MAX_PIXELS, note: Note = say) -> NDArray[np.uint8]:
    """Read a picture as it is meant to be looked at.

    The EXIF orientation is applied, other metadata is not looked at; of an animation the first frame is
    taken. Grey, palette, CMYK, Lab and others become RGB; alpha is dropped, leaving the colours that were
    stored under it. 16-bit grey is scaled by 1/257, so that 0xffff is 255; of 16-bit RGB Pillow keeps the
    high byte. Where 16 bits use less than a quarter of their range, and for signed, 32-bit and
    floating-point values, the smallest becomes 0 and the largest 255.

    Args:
        source: a path, the bytes of a file, a file open for reading bytes, or a PIL image. PostScript and
            other formats that Pillow hands to another program are refused.
        max_pixels: a picture with more is refused before it is decoded.
        note: takes what a person should know: values that were stretched, frames that were left. Default: a
            line on stderr.

    Returns:
        uint8 RGB [H, W, 3], range 0..255.

    Raises:
        UserError: the file is missing, is not a picture or not a regular file, is damaged or too large.
    """
    name = name_of(source)

    def told(kind: str, remark: str) -> None:
        note(kind, f"{name} {remark}")

    with opened(source, max_pixels) as image:
        try:
            pixels = _pixels(image, told)
        except UserError as error:
            raise UserError(f"{name} {error}") from error
        turn = orientation(image)
        if _has_frames(image):
            told("frames", "has several frames; the first is taken")
    return oriented(pixels, turn)


def size_of(source: Source) -> tuple[int, int]:
    """Height and width of a picture as `read_image` gives it, from its header.

    Raises:
        UserError: the file is missing or is not a picture.
    """
    with opened(source) as image:
        width, height = stored_size(image)
        return (width, height) if orientation(image) > 4 else (height, width)


def orientation(image: Image.Image) -> int:
    """How a picture was turned and mirrored, 1 to 8 as EXIF numbers it; 1, upright, where it does not say.

    Looks at this one tag. What is behind the pixels of a PNG is seen after they are decoded.
    """
    try:
        # Pillow's own method for PNG would decode the picture to look behind it.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata, which a picture can do without
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def oriented(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Pixels [H, W, ...] turned upright, from an `orientation`; contiguous."""
    if turn > 4:
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _pixels(image: Image.Image, note: Note) -> NDArray[np.uint8]:
    """[H, W, 3], not yet turned."""
    lay_out(image)
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or ())
    image.load()
    if not image.width * image.height:
        raise UserError("has no pixels")
    kind = value_type(image)
    if kind or image.mode == "F" or image.mode.startswith("I"):
        signed = kind in (np.int8, np.int32)
        grey = np.concatenate(scale(lambda: _values(image, kind), signed, note))  # [H, W]
        return np.repeat((255 - grey if white_is_zero(image) else grey)[:, :, None], 3, axis=2)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        pixels[top : top + strip.height] = np.asarray(_rgb(strip))
    return spread(pixels, note) if deep else pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in pieces of its whole width, each with its first row."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _values(image: Image.Image, kind: type[np.generic] | None) -> Iterator[NDArray[Any]]:
    for _, strip in _strips(image):
        values = np.asarray(strip)  # [h, W]
        yield values.view(kind) if kind else values


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    return image.convert(UNPACKED.get(image.mode, image.mode)).convert("RGB")


def _has_frames(image: Image.Image) -> bool:
    if image.format in ONE_PICTURE:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damage behind the first frame
        return False
