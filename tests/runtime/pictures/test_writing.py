"""Formats that cannot hold a picture are refused before the work."""

from pathlib import Path

import pytest
from PIL import Image

from structsam_runtime.errors import UserError
from structsam_runtime.pictures.writing import check_holds, save


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".ppm", ".jp2", ".pdf", ".tga"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_usual_formats_hold(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"drawing{suffix}"
    check_holds(path, mode, 60, 4000)
    save(Image.new(mode, (60, 40)), path)
    if suffix != ".pdf":
        with Image.open(path) as image:
            assert image.size == (60, 40)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("a.webp", (16384, 10), "WEBP cannot hold 16384 x 10 pixels"),
        ("a.webp", (10, 16384), "WEBP cannot hold 10 x 16384 pixels"),
        ("a.jpg", (70_000, 10), "JPEG cannot hold 70000 x 10 pixels"),
        ("a.GIF", (70_000, 10), "GIF cannot hold 70000 x 10 pixels"),
        ("a.ico", (600, 400), "ICO cannot hold 600 x 400 pixels"),
        ("a.xbm", (60, 40), "XBM cannot hold 60 x 40 pixels"),
        ("a.msp", (60, 40), "MSP cannot hold 60 x 40 pixels"),
        ("a.blp", (60, 40), "BLP cannot hold 60 x 40 pixels"),
        ("a.h5", (60, 40), "HDF5 cannot hold 60 x 40 pixels"),
    ],
)
def test_what_a_format_does_not_hold_is_refused(
    tmp_path: Path, name: str, size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(UserError, match=rf"cannot write .*{name}: {reason} .*; use \.png"):
        check_holds(tmp_path / name, "RGB", size[1], size[0])


def test_a_picture_that_is_not_held_after_all_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*a\.(xbm|blp)"):
        save(Image.new("RGB", (9, 9)), tmp_path / "a.xbm")
    with pytest.raises(UserError, match=r"cannot write .*a\.blp: BLP cannot hold"):
        save(Image.new("RGB", (9, 9)), tmp_path / "a.blp")
    assert not list(tmp_path.iterdir())
