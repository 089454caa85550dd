"""Masks, ids and sizes from files of every kind that datasets come in."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets.files import (
    check_size,
    optional,
    read_ids,
    read_json,
    read_mask,
    read_rgb_ids,
    size_of,
)
from structsam_runtime.predict.image import read_image


def black_and_white(mask: NDArray[np.bool_], mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(mask.astype(np.uint16) * 0xFFFF)
    if mode == "P":  # 1 is the background here, so that indices and colours differ
        image = Image.fromarray((~mask).astype(np.uint8)).copy()
        image.putpalette([255, 255, 255, 0, 0, 0])
        return image
    image = Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
    if mode == "RGBA":
        image.putalpha(7)
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_a_mask_is_the_same_in_every_kind_of_png(tmp_path: Path, mask: NDArray[np.bool_], mode: str) -> None:
    black_and_white(mask, mode).save(tmp_path / "mask.png")
    read = read_mask(tmp_path / "mask.png")
    assert read.dtype == np.bool_
    np.testing.assert_array_equal(read, mask)


def test_a_transparent_palette_does_not_change_the_mask(tmp_path: Path, square: NDArray[np.bool_]) -> None:
    black_and_white(square, "P").save(tmp_path / "mask.png", transparency=bytes([9, 200]))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), square)


def test_foreground_is_above_128_of_255(tmp_path: Path, save: Callable[..., Path]) -> None:
    grey = np.array([[0, 127, 128, 129, 255]], np.uint8)
    expected = [[False, False, False, True, True]]
    assert read_mask(save(tmp_path / "8.png", grey)).tolist() == expected
    assert read_mask(save(tmp_path / "16.png", grey.astype(np.uint16) * 257)).tolist() == expected


@pytest.mark.parametrize("brightest", [1, 128])
def test_a_mask_of_zeros_and_ones_is_refused(
    tmp_path: Path, save: Callable[..., Path], brightest: int
) -> None:
    path = save(tmp_path / "mask.png", np.array([[0, brightest]], np.uint8))
    with pytest.raises(UserError, match=rf"mask\.png is nowhere brighter than {brightest} of 255"):
        read_mask(path)


def test_ids_keep_their_numbers(tmp_path: Path, save: Callable[..., Path]) -> None:
    wide = np.array([[0, 26, 1000], [26001, 33999, 0xFFFF]], np.uint16)
    np.testing.assert_array_equal(read_ids(save(tmp_path / "16.png", wide)), wide)
    narrow = np.array([[0, 1, 150, 255]], np.uint8)
    np.testing.assert_array_equal(read_ids(save(tmp_path / "8.png", narrow)), narrow)
    palette = Image.fromarray(narrow).copy()
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "p.png"), narrow)


def test_ids_of_several_channels_or_beyond_16_bits_are_refused(
    tmp_path: Path, save: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=r"rgb\.png has the mode RGB, expected one channel"):
        read_ids(save(tmp_path / "rgb.png"))
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match="values from 70000 to 70000, expected ids of 16 bits"):
        read_ids(tmp_path / "wide.tif")


def test_segment_ids_are_little_endian_colours(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save(tmp_path / "ids.png", np.array([[[1, 2, 3], [255, 255, 255], [0, 0, 0]]], np.uint8))
    assert read_rgb_ids(path).tolist() == [[1 + 2 * 256 + 3 * 65536, 2**24 - 1, 0]]
    with pytest.raises(UserError, match=r"grey\.png has the mode L, expected RGB"):
        read_rgb_ids(save(tmp_path / "grey.png", np.zeros((2, 2), np.uint8)))


@pytest.mark.parametrize("read", [read_mask, read_ids, read_rgb_ids, size_of])
def test_broken_files_are_named(
    tmp_path: Path, save: Callable[..., Path], read: Callable[[Path], object]
) -> None:
    with pytest.raises(UserError, match=r"no file .*lost\.png"):
        read(tmp_path / "lost.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"text\.png is not a picture"):
        read(tmp_path / "text.png")
    if read is size_of:  # it reads no further than the header
        return
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "whole.png", noise if read is read_rgb_ids else noise[:, :, 0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.png cannot be read as a picture"):
        read(tmp_path / "cut.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_is_that_of_the_picture_as_it_is_read(
    tmp_path: Path, suffix: str, orientation: int | None
) -> None:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.new("RGB", (9, 6)).save(path, exif=exif)
    assert size_of(path) == read_image(path).shape[:2]


def test_the_size_of_a_png_is_found_without_decoding_it(tmp_path: Path, save: Callable[..., Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    whole = save(tmp_path / "photo.png", noise).read_bytes()
    (tmp_path / "photo.png").write_bytes(whole[: len(whole) // 2])
    assert size_of(tmp_path / "photo.png") == (64, 32)


def test_an_annotation_of_another_size_is_refused(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save(tmp_path / "photo.png")
    check_size(path, "mask.png", (6, 9))
    with pytest.raises(UserError, match=r"photo\.png has 9 x 6 pixels and mask\.png has 6 x 9; expected"):
        check_size(path, "mask.png", (9, 6))


def test_json_is_checked_for_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"images": [], "info": 1}))
    assert read_json(path, ["images"]) == {"images": [], "info": 1}
    with pytest.raises(UserError, match=r"all\.json has no annotations, categories; expected"):
        read_json(path, ["images", "annotations", "categories"])
    for content in (b'{"images": [', b"\xff\xfe\xfd", struct.pack("<I", 7)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"all\.json cannot be read as JSON"):
            read_json(path, ["images"])
    path.write_text("[]")
    with pytest.raises(UserError, match=r"all\.json has no images"):
        read_json(path, ["images"])


def test_a_package_that_is_not_there_is_named_with_the_extra() -> None:
    with pytest.raises(UserError, match=r'needs no_such_package; pip install "structsam\[evaluate\]"'):
        optional("no_such_package")


@pytest.mark.parametrize("beyond", [-1, 70000])
def test_a_mask_beyond_16_bits_is_one_line(tmp_path: Path, beyond: int) -> None:
    path = tmp_path / "mask.tif"
    Image.fromarray(np.array([[0, beyond]], np.int32)).save(path)
    with pytest.raises(
        UserError, match=r"mask\.tif has int32 pixels beyond 16 bits; write the mask in black"
    ):
        read_mask(path)


def test_annotations_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a\.json is not a regular file"):
        read_json(tmp_path / "a.json", ["images"])
