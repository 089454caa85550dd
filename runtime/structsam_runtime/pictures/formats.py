"""Which kinds of file are read as pictures."""

from PIL import Image

FORMATS = (
    *("PNG", "JPEG", "BMP", "GIF", "PPM"),
    *("TIFF", "WEBP", "AVIF", "JPEG2000", "HEIF", "JXL"),  # HEIF and JXL: if a plugin is registered
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "MCIDAS", "MSP", "PCX"),
    *("PIXAR", "PSD", "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB"),
    *("IM", "IMT", "SPIDER", "PCD", "TGA"),  # told by little more than luck: after all others
)
"""Names that Pillow knows them by, in the order in which they are tried; those that are not here are skipped.

Not among them: EPS, for which Pillow starts Ghostscript, a program that runs the file; IPTC, which may hold
any other format, EPS included; WMF, BUFR, GRIB, HDF5 and MPEG, which Pillow knows and does not decode.
"""

PROGRAMS = ("EPS", "WMF")
"""Formats of Pillow whose pixels another program would make."""

_FOUND = (
    (0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript, a program, which is not run"),
    (0, (b"%PDF",), "a PDF"),
    (0, (b"<svg", b"<?xml"), "an SVG drawing or other XML"),
    (4, (b"ftyphei", b"ftyphev", b"ftypmif1"), "HEIC, which Pillow reads with a plugin only"),
    (128, (b"DICM",), "a DICOM file"),
    (0, (b"version https://git-lfs",), "a pointer of Git LFS, not the file itself; fetch it"),
)


def suffixes() -> frozenset[str]:
    """Suffixes, in small letters and with their dots, of files that are taken for pictures in a folder."""
    Image.init()
    readable = set(FORMATS) & set(Image.OPEN)
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in readable)


def foreign(head: bytes) -> str | None:
    """What a file is that is no picture here; None where its first 132 bytes do not say."""
    for place, starts, kind in _FOUND:
        if head[place:].startswith(starts):
            return kind
    return None
