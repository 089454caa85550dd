"""Whatever a file is and however it is damaged: a picture, or one line."""

import io
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile, PngImagePlugin

from structsam_runtime.errors import UserError
from structsam_runtime.pictures import MAX_PIXELS, opened, read_image
from structsam_runtime.pictures.formats import FORMATS, foreign, suffixes
from structsam_runtime.pictures.jpeg import scans

HARD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1000, 9000]

damage = st.lists(
    st.tuples(
        st.floats(0, 0.999),  # where, as a share of the file
        st.one_of(
            st.binary(max_size=4),
            st.tuples(
                st.sampled_from(HARD), st.sampled_from([1, 2, 4]), st.sampled_from(["big", "little"])
            ).map(lambda field: (field[0] % 256 ** field[1]).to_bytes(field[1], field[2])),
        ),
        st.sampled_from([0, 1, 2, 4, 10_000]),  # bytes that give way
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """The file with bytes replaced, inserted and cut out."""
    made = bytearray(data)
    for share, new, gone in changes:
        place = int(share * len(made))
        made[place : place + gone] = new
    return bytes(made)


@given(st.data())
def test_a_damaged_picture_is_read_or_is_one_line(files: dict[str, bytes], data: st.DataObject) -> None:
    for whole in files.values():
        try:
            pixels = read_image(damaged(whole, data.draw(damage)), note=lambda kind, remark: None)
        except UserError:
            continue
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)


def test_every_kind_is_read_whole(files: dict[str, bytes]) -> None:
    assert len(files) > 30
    for kind, data in files.items():
        assert read_image(data, note=lambda kind, remark: None).shape == (16, 16, 3), kind


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("deep"),
        SyntaxError("odd"),
        KeyError(7),
        AssertionError(),
        OverflowError("x"),
    ],
)
def test_whatever_a_decoder_raises_is_one_line(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "a.png").write_bytes(files["PNG"])

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(UserError, match=r"a\.png cannot be read as a picture: .+"):
        read_image(tmp_path / "a.png")


def test_an_interruption_is_none_of_a_pictures_failures(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(files["PNG"])


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Ghostscript in its place that leaves a trace."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is PostScript, a program, which is not run; convert it"):
        read_image(tmp_path / "a.jpg")
    with (
        Image.open(tmp_path / "a.jpg") as image,
        pytest.raises(UserError, match="is EPS, which another program"),
    ):
        read_image(image)
    assert not (tmp_path / "started").exists()
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(OSError, match=r".*"):
        image.load()
    assert (tmp_path / "started").exists()  # the trap works


def test_no_format_runs_a_program_or_holds_one() -> None:
    assert not {"EPS", "WMF", "IPTC", "MPEG", "HDF5", "GRIB", "BUFR"} & set(FORMATS)
    assert len(set(FORMATS)) == len(FORMATS)
    assert {".jpg", ".gif", ".webp", ".jp2", ".tga", ".dds", ".bmp"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".h5", ".mpg"} & suffixes()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"<svg xmlns", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    ],
)
def test_what_is_something_else_is_named(head: bytes, kind: str) -> None:
    assert str(foreign(head)).startswith(kind)
    if kind != "HEIC" or "HEIF" not in Image.OPEN:
        with pytest.raises(UserError, match=f"the picture is {kind}"):
            read_image(head)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "a.jpg"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # so that a reader finds something, and does not wait for ever
    os.write(end, bytes(60_000))
    try:
        with pytest.raises(UserError, match=r"a\.jpg cannot be read as a picture: it is not a regular file"):
            read_image(pipe)
    finally:
        os.close(end)
    with pytest.raises(UserError, match="it is a folder"):
        read_image(tmp_path)
    with pytest.raises(UserError, match="not a regular file"):
        read_image("/dev/zero")
    (tmp_path / "b.jpg").touch()
    with pytest.raises(UserError, match=r"b\.jpg is not a picture that Pillow can read \(it is empty\)"):
        read_image(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_text("hi")  # shorter than what some formats look at
    with pytest.raises(UserError, match=r"b\.jpg is not a picture that Pillow can read; expected PNG"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match="null"):
        read_image("a\0b.jpg")


class Stream(io.RawIOBase):
    """Bytes that come once, as from a network."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def test_pictures_come_in_many_ways(tmp_path: Path, files: dict[str, bytes]) -> None:
    data, path = files["PNG"], tmp_path / "a.png"
    path.write_bytes(data)
    expected = read_image(path)
    with path.open("rb") as file, Image.open(path) as image:
        file.seek(5)
        sources: list[Any] = [str(path), data, bytearray(data), memoryview(data), file, Stream(data), image]
        for source in sources:
            np.testing.assert_array_equal(read_image(source), expected)
        assert not file.closed
        assert image.size == (16, 16)  # still open, too


def test_what_is_no_source_of_a_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with (tmp_path / "a.png").open() as file, pytest.raises(UserError, match=r"a\.png was opened as text"):
        read_image(file)  # type: ignore[arg-type]
    for source in (None, 7, np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(UserError, match=f"a picture came as {type(source).__name__}, expected a path"):
            read_image(source)  # type: ignore[arg-type]


def _png(width: int, height: int) -> bytes:
    """The beginning of a PNG: whoever decodes it finds nothing more."""
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
def test_a_strip_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"has \d+ x \d+ pixels, and a side of more than 65535; cut it"):
        read_image(_png(*size))
    with opened(_png(*(side - side // 65_536 for side in size))) as image:
        assert max(image.size) == 65_535


def test_a_large_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(
        UserError, match=r"is too large: 14204 x 12960 pixels.*--max-pixels 184083840"
    ) as error:
        read_image(_png(14204, 12960))
    assert "make it smaller" in str(error.value)
    with pytest.raises(UserError, match="is too large"):
        read_image(_png(10, 10), max_pixels=99)
    with pytest.raises(UserError, match="is too large"):
        read_image(Image.new("1", (10, 10)), max_pixels=99)


def test_more_pixels_are_allowed_where_they_are_asked_for() -> None:
    """Pillow's own limit, which is one for the whole process, does not stop them, and is there again."""
    limit = Image.MAX_IMAGE_PIXELS
    assert limit
    assert limit * 2 < 20_000**2
    with opened(_png(20_000, 20_000), 20_000**2) as image:
        Image._decompression_bomb_check(image.size)  # what some decoders call
        assert image.size == (20_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match="is too large"), opened(_png(20_000, 20_000)):
        pass
    assert limit == Image.MAX_IMAGE_PIXELS
    assert MAX_PIXELS > 12_000 * 9_000


def test_pillows_limit_survives_threads() -> None:
    limit, data, side = Image.MAX_IMAGE_PIXELS, _png(20_000, 20_000), 20_000

    def work() -> None:
        for _ in range(20):
            with opened(data, side**2) as image:
                Image._decompression_bomb_check(image.size)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS


def _with_scans(count: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.new("L", size).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * (count - scans(whole)) + whole[-2:]


def test_scans_are_counted_as_a_decoder_finds_them(files: dict[str, bytes]) -> None:
    assert scans(files["JPEG"]) == 1
    assert scans(files["JPEG progressive"]) > 5
    assert scans(_with_scans(40)) == 40
    assert scans(files["JPEG"] + b"\xff\xda" * 9) == 1  # behind the end
    for place in range(len(files["JPEG"])):
        assert scans(files["JPEG"][:place]) <= 1
    assert (
        scans(b"\xff\xd8" + b"\xff\xe1\x00\x06\xff\xda\xff\xda" + b"\xff\xda\x00\x02data\xff\x00\xff\xd9")
        == 1
    )


def test_a_jpeg_of_very_many_scans_is_refused_by_the_work_that_it_is() -> None:
    data = _with_scans(400)
    assert read_image(data).shape == (16, 16, 3)  # small, so what
    with pytest.raises(UserError, match=r"is too large: 400 scans of 16 x 16 pixels"):
        read_image(data, max_pixels=16 * 16 * 400 // 24 - 1)


def test_a_dds_that_is_cut_short_is_not_searched_for_its_end(files: dict[str, bytes]) -> None:
    data = bytearray(files["DDS"])
    data[12:20] = (9000).to_bytes(4, "little") * 2
    with pytest.raises(UserError, match="the file is cut short"):
        read_image(bytes(data))
