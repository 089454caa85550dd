"""What Pillow reads otherwise than a TIFF file means it."""

from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

BAND_BY_BAND, WHITE_IS_ZERO, SIGNED = 2, 0, 2


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as they are stored; newer versions of Pillow tell those of a TIFF turned upright."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return image.size


def lay_out(image: Image.Image) -> None:
    """Let 16-bit bands that lie one behind the other, uncompressed, be decoded as 16 bits; Pillow takes 8.

    To be called before the pixels are decoded.
    """
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(PLANAR_CONFIGURATION) != BAND_BY_BAND:
        return
    if len(image.getbands()) == 1:
        image.tag_v2[PLANAR_CONFIGURATION] = 1  # for one band the same, and Pillow keeps its depth
        image._setup()
    elif set(image.tag_v2.get(BITSPERSAMPLE, ())) == {16}:
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [_deep(tile, order) for tile in image.tile]


def _deep(tile: Any, order: str) -> Any:
    codec, extents, offset, args = tile
    if codec != "raw" or len(args[0]) > 1:
        return tile
    return ImageFile._Tile(codec, extents, offset, (f"{args[0]};16{order}", *args[1:]))


def value_type(image: Image.Image) -> type[np.generic] | None:
    """The type of its only band, as wide as Pillow's, where that does not tell the sign; None elsewhere."""
    if not isinstance(image, TiffImageFile) or image.mode not in ("L", "I"):
        return None
    signed = image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == SIGNED
    if image.mode == "L":
        return np.int8 if signed else None
    return np.int32 if signed else np.uint32


def white_is_zero(image: Image.Image) -> bool:
    """Whether values of more than 8 bits are those of a negative, which Pillow turns only for 8 bits."""
    return (
        isinstance(image, TiffImageFile)
        and image.mode in ("I;16", "I;16B", "I", "F")
        and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
    )
