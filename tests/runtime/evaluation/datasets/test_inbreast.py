"""INbreast's mammograms and outlines."""

import plistlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import open_dataset
from structsam_runtime.evaluation.datasets.inbreast import masses, windowed

HEIGHT, WIDTH = 40, 30
DIAMOND = [(15.0, 5.0), (25.25, 20.0), (15.0, 34.5), (5.5, 20.0)]


def write_dicom(path: Path, pixels: NDArray[np.uint16], meaning: str = "MONOCHROME2") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom = Dataset()
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dicom.SOPInstanceUID = generate_uid()
    dicom.Rows, dicom.Columns = pixels.shape
    dicom.SamplesPerPixel, dicom.PhotometricInterpretation = 1, meaning
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit, dicom.PixelRepresentation = 16, 14, 13, 0
    dicom.PixelData = pixels.astype("<u2").tobytes()
    dicom.save_as(path, enforce_file_format=True)
    return path


def write_outlines(path: Path, regions: list[tuple[str, list[tuple[float, float]]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rois = [
        {"Name": name, "NumberOfPoints": len(corners), "Point_px": [f"({x:f}, {y:f})" for x, y in corners]}
        for name, corners in regions
    ]
    path.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois}]}))
    return path


def write(root: Path, number: int, regions: list[tuple[str, list[tuple[float, float]]]]) -> tuple[Path, Path]:
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    return (
        write_dicom(root / f"AllDICOMs/{number}_6c613a14b80a8591_MG_R_CC_ANON.dcm", pixels),
        write_outlines(root / f"AllXML/{number}.xml", regions),
    )


@pytest.mark.parametrize("parent", ["", "INbreast Release 1.0"])
def test_masses_and_nothing_else(tmp_path: Path, parent: str) -> None:
    write(tmp_path / parent, 22, [("Calcification", [(3.0, 4.0)])])
    write(tmp_path / parent, 11, [("Mass", DIAMOND), ("Calcification", DIAMOND), ("mass", DIAMOND[:2])])
    write_dicom(tmp_path / parent / "AllDICOMs/33_aa_MG_L_ML_ANON.dcm", np.ones((4, 4), np.uint16))  # normal
    first, second = open_dataset("inbreast", tmp_path)
    assert (first.name, second.name, second.objects()) == ("11", "22", [])
    mass, degenerate = first.objects()
    assert degenerate.box is None  # two corners enclose nothing
    assert (mass.mask.shape, mass.category, mass.crowd) == ((HEIGHT, WIDTH), 1, False)
    image = first.image()
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)


def test_an_outline_is_filled_as_a_point_in_polygon_test_says(tmp_path: Path) -> None:
    write(tmp_path, 11, [("Mass", DIAMOND)])
    ((mass,),) = [annotated.objects() for annotated in open_dataset("inbreast", tmp_path)]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    outline = Outline(DIAMOND)
    inside = outline.contains_points(centres).reshape(HEIGHT, WIDTH)
    # Pillow draws the outline itself too: it may add pixels that the outline crosses, never lose one.
    near = np.any(
        [outline.contains_points(centres + step) for step in [(-1, 0), (1, 0), (0, -1), (0, 1)]], axis=0
    ).reshape(HEIGHT, WIDTH)
    assert (mass.mask >= inside).all()
    assert (mass.mask <= (inside | near)).all()


def test_a_mass_may_leave_the_picture(tmp_path: Path) -> None:
    write(tmp_path, 11, [("Mass", [(-5.0, -5.0), (4.0, -5.0), (4.0, 3.0), (-5.0, 3.0)])])
    ((mass,),) = [annotated.objects() for annotated in open_dataset("inbreast", tmp_path)]
    assert mass.box == (0, 0, 4, 3)


@given(arrays.arrays(np.uint16, (8, 8), elements=st.integers(0, 16383)))
def test_brightness_is_kept_in_order_between_the_percentiles(values: NDArray[np.uint16]) -> None:
    grey = windowed(values)
    assert (grey[values == 0] == 0).all()
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(grey.ravel()[order].astype(int)) >= 0).all()
    tissue = values[values > 0]
    if tissue.size and np.ptp(np.percentile(tissue, [0.5, 99.5])):
        assert grey.max() == 255


def test_a_window_is_the_formula() -> None:
    values = np.arange(2001, dtype=np.uint16).reshape(3, 667)
    low, high = 1 + 0.005 * 1999, 1 + 0.995 * 1999
    exact = (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
    exact[0, 0] = 0
    np.testing.assert_array_equal(windowed(values), np.floor(exact))
    assert not windowed(np.zeros((2, 2), np.uint16)).any()
    assert not windowed(np.full((2, 2), 7, np.uint16)).any()


@pytest.mark.parametrize(
    "content",
    [
        b"<broken",
        b"",
        plistlib.dumps({"Images": [{"ROIs": [{"Name": "Mass"}]}]}),
        plistlib.dumps({"Images": [{"ROIs": [{"Name": "Mass", "Point_px": ["(1.0)"]}]}]}),
        plistlib.dumps({"Images": [{"ROIs": [{"Name": 7}]}]}),
        plistlib.dumps([1]),
    ],
)
def test_a_broken_xml_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "20586908.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"20586908\.xml is not a property list with regions of OsiriX"):
        masses(path)
    with pytest.raises(UserError, match=r"cannot read .*lost\.xml"):
        masses(tmp_path / "lost.xml")


def test_a_broken_dicom_file_is_named(tmp_path: Path) -> None:
    picture, _ = write(tmp_path, 11, [("Mass", DIAMOND)])
    (annotated,) = open_dataset("inbreast", tmp_path)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"the pixels of .*11_.*\.dcm cannot be read"):
        annotated.image()
    picture.write_bytes(b"broken")
    for read in (annotated.image, annotated.objects):
        with pytest.raises(UserError, match=r"11_.*\.dcm cannot be read as DICOM"):
            read()
    write_dicom(picture, np.ones((4, 4), np.uint16), "MONOCHROME1")
    with pytest.raises(UserError, match=r"11_.*\.dcm is MONOCHROME1 uint16 \[4, 4\], expected .*MONOCHROME2"):
        annotated.image()
    report = dcmread(picture)
    del report.Rows
    report.save_as(picture)
    with pytest.raises(UserError, match=r"11_.*\.dcm has no Rows and Columns"):
        annotated.objects()
    picture.unlink()
    with pytest.raises(UserError, match=r"11_.*\.dcm cannot be read as DICOM"):
        annotated.image()


def test_outlines_without_a_mammogram_are_told(tmp_path: Path) -> None:
    picture, outlines = write(tmp_path, 11, [])
    picture.unlink()
    with pytest.raises(UserError, match=r"1 of 1 files in .*AllXML have no mammogram .*needs 11_\*\.dcm"):
        open_dataset("inbreast", tmp_path)
    outlines.unlink()
    with pytest.raises(UserError, match=r"no \*\.xml in .*AllXML"):
        open_dataset("inbreast", tmp_path)


def test_pydicom_is_asked_for_when_the_dataset_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 11, [])
    monkeypatch.setitem(sys.modules, "pydicom", None)  # Python then says that there is no such module
    with pytest.raises(UserError, match=r'needs pydicom; pip install "structsam\[evaluate\]"'):
        open_dataset("inbreast", tmp_path)


def test_a_picture_of_absurd_size_is_refused_before_it_is_made(tmp_path: Path) -> None:
    picture, _ = write(tmp_path, 11, [("Mass", DIAMOND)])
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(picture)
    header.Rows = header.Columns = 65_535
    header.save_as(picture)
    (annotated,) = open_dataset("inbreast", tmp_path)
    for read in (annotated.image, annotated.objects):
        with pytest.raises(UserError, match=r"11_.*\.dcm is too large: 1 x 65535 x 65535 pixels"):
            read()


def test_a_file_that_is_deflated_as_a_whole_is_refused(tmp_path: Path) -> None:
    picture, _ = write(tmp_path, 11, [("Mass", DIAMOND)])
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(picture)
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(picture, enforce_file_format=True)
    (annotated,) = open_dataset("inbreast", tmp_path)
    with pytest.raises(UserError, match=r"\.dcm is deflated as a whole"):
        annotated.image()


def test_an_outline_far_outside_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 11, [("Mass", [(1e9, 1.0), (2.0, 2.0), (1.0, 3.0)])])
    (annotated,) = open_dataset("inbreast", tmp_path)
    with pytest.raises(UserError, match="a polygon leaves its picture"):
        annotated.objects()
