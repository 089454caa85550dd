"""Reading pictures, and the encoder's input against Meta's preprocessing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Fit, Model
from structsam_runtime.predict.image import Frame, prepare, read_image

NAMES = ["astronaut", "chelsea", "chelsea upright", "coffee"]
sizes = st.integers(min_value=8, max_value=4000)


@pytest.mark.parametrize("name", NAMES)
def test_prepare_is_metas_preprocessing_bit_for_bit(
    name: str, photos: dict[str, NDArray[np.uint8]], meta: SimpleNamespace, sam: Model
) -> None:
    photo = photos[name]
    tensor, frame = prepare(photo, sam)

    resized = meta.ResizeLongestSide(1024).apply_image(photo)
    stand_in = SimpleNamespace(
        pixel_mean=torch.tensor(sam.pixel_mean).view(-1, 1, 1),
        pixel_std=torch.tensor(sam.pixel_std).view(-1, 1, 1),
        image_encoder=SimpleNamespace(img_size=1024),
    )
    expected = meta.Sam.preprocess(stand_in, torch.as_tensor(resized).permute(2, 0, 1)[None])
    assert (frame.resized_height, frame.resized_width) == resized.shape[:2]
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, expected.numpy())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 20000), (20000, 10)])
def test_prepare_takes_extreme_pictures(height: int, width: int, sam: Model) -> None:
    tensor, frame = prepare(np.full((height, width, 3), 255, np.uint8), sam)
    inside = tensor[0, :, : frame.resized_height, : frame.resized_width]
    assert min(inside.shape[1:]) >= 1
    np.testing.assert_array_equal(inside, np.broadcast_to(inside[:, :1, :1], inside.shape))
    assert np.count_nonzero(tensor) == inside.size  # all else is padding


@given(sizes, sizes)
def test_frame_is_metas_size(height: int, width: int) -> None:
    frame = Frame.of(height, width, 1024)
    scale = 1024 * 1.0 / max(height, width)
    assert (frame.resized_height, frame.resized_width) == (
        int(height * scale + 0.5),
        int(width * scale + 0.5),
    )
    assert max(frame.resized_height, frame.resized_width) == 1024


@given(sizes, sizes, st.floats(0, 1), st.floats(0, 1))
def test_frame_there_and_back(height: int, width: int, u: float, v: float) -> None:
    frame = Frame.of(height, width, 1024)
    place = np.array([u * width, v * height])
    np.testing.assert_allclose(frame.to_image(frame.to_model(place)), place, rtol=1e-12, atol=1e-12)
    corner = frame.to_model(np.array([width, height], np.float64))
    np.testing.assert_allclose(corner, [frame.resized_width, frame.resized_height])


def test_prepare_takes_another_size(photos: dict[str, NDArray[np.uint8]], sam: Model) -> None:
    tensor, frame = prepare(photos["coffee"], replace(sam, image_size=256))
    assert tensor.shape == (1, 3, 256, 256)
    assert (frame.resized_height, frame.resized_width) == (171, 256)
    assert not tensor[:, :, 171:].any()


def _triangles(source: int, target: int) -> NDArray[np.float64]:
    """[target, source] weights of an antialiased bilinear resize: triangles as wide as the step, at least one
    pixel."""
    step = source / target
    centres, places = (np.arange(target)[:, None] + 0.5) * step, np.arange(source) + 0.5
    weights = np.maximum(0, 1 - np.abs(places - centres) / max(step, 1))
    return weights / weights.sum(axis=1, keepdims=True)


def _plain(sam: Model, side: int) -> Model:
    """A model that leaves pixels as they are, on 0..255."""
    return replace(sam, image_size=side, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [256, 640])
def test_a_stretched_picture_fills_the_square(
    name: str, side: int, photos: dict[str, NDArray[np.uint8]], sam: Model
) -> None:
    """Within a level: Pillow rounds to bytes after each axis."""
    photo = photos[name]
    tensor, frame = prepare(photo, replace(_plain(sam, side), fit="stretch"))
    height, width = photo.shape[:2]
    assert frame == Frame(height, width, side, side, side)
    expected = _triangles(height, side) @ photo.transpose(2, 0, 1) @ _triangles(width, side).T
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0], expected, rtol=0, atol=1.1)


def test_a_stretched_picture_may_be_thin(sam: Model) -> None:
    tensor, _ = prepare(np.full((1, 5000, 3), 255, np.uint8), replace(_plain(sam, 64), fit="stretch"))
    assert (tensor == 255).all()
    with pytest.raises(UserError, match="5 x 0 pixels is empty"):
        prepare(np.zeros((0, 5, 3), np.uint8), replace(sam, fit="stretch"))


@given(sizes, sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_stretched_frame_scales_each_axis(height: int, width: int, u: float, v: float) -> None:
    frame = Frame.of(height, width, 1024, "stretch")
    place = np.array([u * width, v * height])
    np.testing.assert_allclose(frame.to_model(place), [u * 1024, v * 1024], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(frame.to_image(frame.to_model(place)), place, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_min_max_scales_a_picture_by_its_own_range(
    fit: Fit, photos: dict[str, NDArray[np.uint8]], sam: Model
) -> None:
    """MedSAM's formula in float64, over all channels and without the padding, which is 0."""
    photo = photos["coffee"] // 2 + 40
    levels, frame = prepare(photo, replace(_plain(sam, 256), fit=fit))
    tensor, _ = prepare(photo, replace(sam, image_size=256, fit=fit, scaling="min-max"))
    rows, columns = slice(frame.resized_height), slice(frame.resized_width)
    x = levels[0, :, rows, columns].astype(np.float64)
    expected = (x - x.min()) / max(x.max() - x.min(), 1e-8)
    np.testing.assert_array_equal(tensor[0, :, rows, columns], expected.astype(np.float32))
    assert not tensor[0, :, frame.resized_height :].any()


def test_min_max_of_one_colour_is_0(sam: Model) -> None:
    tensor, _ = prepare(np.full((9, 9, 3), 200, np.uint8), replace(sam, image_size=64, scaling="min-max"))
    assert not tensor.any()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32 \[4, 5, 3\], expected uint8 RGB \[H, W, 3\]"),
        (np.zeros((4, 5), np.uint8), r"uint8 \[4, 5\], expected"),
        (np.zeros((4, 5, 4), np.uint8), r"uint8 \[4, 5, 4\], expected"),
        ([[0]], "list, expected uint8"),
        (np.zeros((0, 5, 3), np.uint8), "5 x 0 pixels is empty"),
        (np.zeros((1, 5000, 3), np.uint8), "5000 x 1 pixels is too thin"),
    ],
)
def test_prepare_refuses(picture: NDArray[np.uint8], message: str, sam: Model) -> None:
    with pytest.raises(UserError, match=message):
        prepare(picture, sam)


def test_read_gives_the_pixels_of_the_file(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "coffee.png")
    pixels = read_image(tmp_path / "coffee.png")
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, photos["coffee"])


def test_read_applies_exif_orientation(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right side is up
    Image.fromarray(photos["chelsea"]).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(photos["chelsea"], -1))


def test_read_drops_alpha_over_its_own_colours(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    rgb = photos["coffee"]
    alpha = np.tile(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8), (rgb.shape[0], 1))
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgb)
    Image.fromarray(np.dstack([rgb[:, :, 0], alpha])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), np.dstack([rgb[:, :, 0]] * 3))


@pytest.mark.parametrize("transparency", [None, bytes([0, 128, 255])])
def test_read_looks_up_a_palette(tmp_path: Path, transparency: bytes | None) -> None:
    image = Image.new("P", (2, 2))
    for index, place in enumerate([(0, 0), (1, 0), (0, 1)]):
        image.putpixel(place, index)
    image.putpixel((1, 1), 1)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    extra = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "palette.png", **extra)
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), [[red, green], [blue, green]])


def test_read_scales_sixteen_bits_to_eight(tmp_path: Path) -> None:
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for suffix in ("png", "tif"):
        Image.fromarray(eight * np.uint16(257)).save(tmp_path / f"wide.{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"wide.{suffix}"), np.dstack([eight] * 3))


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_read_makes_rgb_of_other_modes(
    tmp_path: Path, mode: str, photos: dict[str, NDArray[np.uint8]]
) -> None:
    image = Image.fromarray(photos["coffee"]).convert(mode)
    image.save(tmp_path / "other.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "other.tif"), np.asarray(image.convert("RGB")))


def test_read_refuses_what_is_not_a_picture(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "coffee.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "coffee.jpg").read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for name, message in {
        "none.jpg": "no file",
        "text.jpg": "is not a picture that Pillow can read",
        "empty.png": "is not a picture that Pillow can read",
        "cut.jpg": "cannot be read as a picture: .*truncated",
        ".": "cannot be read as a picture",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)


def test_read_refuses_damage_inside_a_png(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "coffee.png")
    data = bytearray((tmp_path / "coffee.png").read_bytes())
    data[100:200] = bytes(100)
    (tmp_path / "damaged.png").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_image(tmp_path / "damaged.png")


def test_read_refuses_a_decompression_bomb(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "coffee.png")
    with pytest.raises(UserError, match="is too large"):
        read_image(tmp_path / "coffee.png", max_pixels=1000)
