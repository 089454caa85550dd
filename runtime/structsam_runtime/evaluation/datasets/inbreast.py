"""INbreast: masses in full-field digital mammograms.

::

    INbreast Release 1.0/
        AllDICOMs/20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm        one channel, up to 16 bits
        AllXML/20586908.xml                                         outlines, a property list of OsiriX

A mammogram without an XML file has no finding and is left out; one with other findings alone (calcifications,
asymmetries ...) is there, without objects. Radiologists drew every mass as one polygon named "Mass".
"""

import plistlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...errors import UserError
from ...pictures import MAX_PIXELS
from .base import Annotated, Object
from .files import locate, optional
from .outlines import check_polygon

MASS = "mass"
DEFLATED = "1.2.840.10008.1.2.1.99"
PERCENTILES = (0.5, 99.5)
Polygon = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Mammogram(Annotated):
    """A DICOM file and the XML file with the outlines that were drawn in it."""

    outlines: Path

    def image(self) -> NDArray[np.uint8]:
        """The mammogram in 8 bits, as MedSAM is fed with other modalities than CT.

        Brightness runs from the 0.5th to the 99.5th percentile of the pixels above zero; zero, the
        background, stays zero. Grey, in three equal channels: uint8 RGB [H, W, 3].

        Raises:
            UserError: the file is missing or broken, or is not a grey picture with zero as black.
        """
        dicom = _read(self.picture)
        grey = windowed(_pixels(dicom, self.picture))
        return np.repeat(grey[:, :, None], 3, axis=2)

    def _decode(self) -> list[Object]:
        height, width = _size(_read(self.picture, stop_before_pixels=True), self.picture)
        return [Object(_fill(polygon, height, width)) for polygon in masses(self.outlines)]


def windowed(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """uint16 [H, W] -> uint8 [H, W]: percentiles 0.5 to 99.5 of the values above zero become 0..255."""
    tissue = values > 0
    if not tissue.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(values[tissue], PERCENTILES)
    levels = np.arange(int(values.max()) + 1)  # far fewer than pixels
    table = ((np.clip(levels, low, high) - low) / ((high - low) or 1) * 255).astype(np.uint8)
    return np.asarray(table[values])


def masses(path: Path) -> list[Polygon]:
    """The outlines named "Mass": of each, its corners (x, y) in pixels.

    Raises:
        UserError: the file is missing, or is not a property list with regions of OsiriX.
    """
    try:
        content = plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)
        regions = [region for image in content["Images"] for region in image["ROIs"]]
        return [
            [_point(text) for text in region["Point_px"]]
            for region in regions
            if region["Name"].strip().lower() == MASS
        ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    # Not XML, not these keys, or another kind of value than text and lists.
    except (ExpatError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a property list with regions of OsiriX: {error!r}") from error


def _point(text: str) -> tuple[float, float]:
    """``(1234.5, 678.9)`` -> the two numbers."""
    x, y = text.strip("() ").split(",")
    return float(x), float(y)


def _fill(polygon: Polygon, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels inside and on a polygon; none where it has fewer than three corners."""
    canvas = Image.new("1", (width, height))
    if len(polygon) > 2:
        ImageDraw.Draw(canvas).polygon(check_polygon([*chain(*polygon)], height, width), fill=1)
    return np.array(canvas)


def _read(path: Path, **options: bool) -> Any:
    pydicom = optional("pydicom")
    try:
        if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
            raise UserError(f"{path} is deflated as a whole, to a size that it does not say; write it plain")
        return pydicom.dcmread(path, **options)
    except UserError:
        raise
    except Exception as error:  # pydicom raises nearly everything when it meets damage
        raise UserError(f"{path} cannot be read as DICOM: {error}") from error


def _size(dicom: Any, path: Path) -> tuple[int, int]:
    """Height and width, pixels; nothing is decoded."""
    if "Rows" not in dicom or "Columns" not in dicom:
        raise UserError(f"{path} has no Rows and Columns, expected a DICOM picture")
    height, width, frames = int(dicom.Rows), int(dicom.Columns), int(dicom.get("NumberOfFrames") or 1)
    if height * width * max(1, frames) > MAX_PIXELS:
        raise UserError(f"{path} is too large: {frames} x {height} x {width} pixels, more than {MAX_PIXELS}")
    return height, width


def _pixels(dicom: Any, path: Path) -> NDArray[np.uint16]:
    try:
        _size(dicom, path)
        meaning, values = dicom.PhotometricInterpretation, dicom.pixel_array
    except UserError:
        raise
    except Exception as error:  # missing tags, damage, compression that pydicom has no decoder for
        raise UserError(f"the pixels of {path} cannot be read: {error}") from error
    if meaning != "MONOCHROME2" or values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{path} is {meaning} {values.dtype} {list(values.shape)}, expected one grey picture of at most"
            " 16 bits, MONOCHROME2"
        )
    return np.asarray(values, np.uint16)


def read_inbreast(root: Path, split: str) -> list[Annotated]:
    """Every mammogram with an XML file, by number. There is one split, ``all``.

    Raises:
        UserError: the layout is not there, pydicom is not installed, or an XML file has no mammogram.
    """
    optional("pydicom")
    dicoms, outlines = locate(root, [("AllDICOMs", "AllXML")], ["INbreast Release 1.0"])
    pictures = {path.stem.partition("_")[0]: path for path in sorted(dicoms.glob("*.dcm")) if path.is_file()}
    drawn = sorted(path for path in outlines.glob("*.xml") if path.is_file())
    if not drawn:
        raise UserError(f"no *.xml in {outlines}; expected the outlines of INbreast")
    lacking = [path.name for path in drawn if path.stem not in pictures]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(drawn)} files in {outlines} have no mammogram in {dicoms}: {lacking[0]}"
            f" needs {Path(lacking[0]).stem}_*.dcm"
        )
    return [Mammogram(name=path.stem, picture=pictures[path.stem], outlines=path) for path in drawn]
