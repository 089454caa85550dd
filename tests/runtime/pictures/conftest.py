"""Small pictures in every format that Pillow writes here."""

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{name: (name, "RGB", {}) for name in ("BMP", "DIB", "GIF", "JPEG2000", "PCX", "PNG", "PPM", "TIFF")},
    **{name: (name, "RGB", {}) for name in ("AVIF", "DDS", "ICO", "JPEG", "QOI", "SGI", "TGA", "WEBP")},
    **{
        f"{name} {mode}": (name, mode, {})
        for name in ("PNG", "TIFF")
        for mode in ("1", "L", "LA", "P", "RGBA")
    },
    **{f"JPEG {mode}": ("JPEG", mode, {}) for mode in ("L", "CMYK")},
    **{f"TIFF {how}": ("TIFF", "RGB", {"compression": how}) for how in ("jpeg", "tiff_lzw", "packbits")},
    **{f"DDS {how}": ("DDS", "RGBA", {"pixel_format": how}) for how in ("DXT1", "DXT3", "DXT5")},
    "TIFF group4": ("TIFF", "1", {"compression": "group4"}),
    "TIFF float": ("TIFF", "F", {}),
    "TIFF 32 bits": ("TIFF", "I", {}),
    "PPM float": ("PPM", "F", {}),
    "SPIDER": ("SPIDER", "F", {}),
    "BLP": ("BLP", "P", {}),
    "MSP": ("MSP", "1", {}),
    "XBM": ("XBM", "1", {}),
    "JPEG progressive": ("JPEG", "RGB", {"progressive": True}),
}
"""Format, mode and options of each."""


@cache
def noise() -> NDArray[np.uint8]:
    """16 x 16 random colours: uint8 [16, 16, 3]."""
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def write(kind: str) -> bytes | None:
    """`noise` as a file; None where this Pillow does not write the format."""
    name, mode, options = KINDS[kind]
    file = io.BytesIO()
    try:
        Image.fromarray(noise()).convert(mode).save(file, name, **options)
    except (KeyError, OSError, ValueError):
        return None
    return file.getvalue()


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The kinds that there are, as files."""
    made = {kind: write(kind) for kind in KINDS}
    return {kind: data for kind, data in made.items() if data}
