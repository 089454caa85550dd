"""What pictures look like once they are read: upright, RGB, in their own range."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from structsam_runtime.errors import UserError
from structsam_runtime.pictures import Once, read_image
from structsam_runtime.pictures.reading import STRIP, _strips, oriented, size_of

ORIENTATION, MAKE, X_RESOLUTION, Y_RESOLUTION, UNIT = 0x0112, 0x010F, 0x011A, 0x011B, 0x0128
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


class Told:
    """The kinds and the remarks that were made."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.remarks: list[str] = []

    def __call__(self, kind: str, remark: str) -> None:
        self.kinds.append(kind)
        self.remarks.append(remark)


@pytest.fixture
def told() -> Told:
    return Told()


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", [0, 1, *TURNS, 9, 300])
def test_every_orientation_is_pillows(rgb: NDArray[np.uint8], name: str, turn: int) -> None:
    image, exif = Image.fromarray(rgb), Image.Exif()
    exif[ORIENTATION] = turn
    options = {"lossless": True} if name == "WEBP" else {}
    data = saved(image, name, exif=exif, **options)
    expected = image.transpose(TURNS[turn]) if turn in TURNS else image
    pixels = read_image(data)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert size_of(data) == pixels.shape[:2]


def _exif() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE], exif[UNIT] = 6, "a camera", 2
    exif[X_RESOLUTION] = exif[Y_RESOLUTION] = 72.0
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 7.0)}
    return exif.tobytes()


@given(
    st.lists(
        st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8), st.sampled_from([0, 1, 2, 8, 50]))
    )
)
def test_damaged_metadata_is_ignored(changes: list[tuple[float, bytes, int]]) -> None:
    """The picture is there, turned in one of the eight ways."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    block = bytearray(_exif())
    for share, new, gone in changes:
        place = 6 + int(share * (len(block) - 6))
        block[place : place + gone] = new
    for name, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        plain = read_image(saved(Image.fromarray(rgb), name, **options))
        pixels = read_image(saved(Image.fromarray(rgb), name, exif=bytes(block), **options))
        assert any(np.array_equal(pixels, oriented(plain, turn)) for turn in range(1, 9))


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        *[(X_RESOLUTION, 2, text) for text in ("72", "7", "")],
        (X_RESOLUTION, 7, b"\0\1"),
        (MAKE, 5, 1.5),
        (MAKE, 3, 7),
        (ORIENTATION, 2, "6"),
        (0x0132, 5, 3.0),  # a time
    ],
)
@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
@pytest.mark.parametrize("unit", [2, 3])
def test_metadata_of_another_type_is_ignored(
    rgb: NDArray[np.uint8], name: str, unit: int, tag: int, kind: int, value: Any
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[UNIT] = unit
    tags.tagtype[tag] = kind
    tags[tag] = value
    if name == "TIFF":
        data = saved(Image.fromarray(rgb), name, tiffinfo=tags)
    else:
        head = b"Exif\0\0" + tags.prefix + b"\x2a\0\x08\0\0\0"
        data = saved(Image.fromarray(rgb), name, exif=head + tags.tobytes(8))
    plain = read_image(saved(Image.fromarray(rgb), name))
    np.testing.assert_array_equal(read_image(data), plain)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_what_pillow_makes_of_them(rgb: NDArray[np.uint8], mode: str, told: Told) -> None:
    image = Image.fromarray(rgb).convert("P" if mode == "PA" else mode).convert(mode)
    opaque = image.convert("RGBA") if mode == "PA" else image
    np.testing.assert_array_equal(read_image(image, note=told), np.asarray(opaque.convert("RGB")))
    assert told.kinds == []


@pytest.mark.parametrize(("mode", "through"), [("La", "LA"), ("RGBa", "RGBA")])
def test_premultiplied_alpha_is_divided_out(rgb: NDArray[np.uint8], mode: str, through: str) -> None:
    image = Image.fromarray(rgb).convert(through).convert(mode)
    np.testing.assert_array_equal(read_image(image), np.asarray(image.convert(through).convert("RGB")))


def test_lab_is_converted(rgb: NDArray[np.uint8]) -> None:
    """There and back again, of colours that Lab in bytes holds: dull ones."""
    dull = 96 + rgb // 4
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(dull), srgb, lab, outputMode="LAB")
    assert image
    for source in (image, saved(image, "TIFF")):
        np.testing.assert_allclose(read_image(source), dull, atol=3)


def test_a_picture_in_strips_is_the_picture(monkeypatch: pytest.MonkeyPatch, rgb: NDArray[np.uint8]) -> None:
    whole = {mode: read_image(Image.fromarray(rgb).convert(mode)) for mode in ("RGB", "P", "I", "F", "1")}
    monkeypatch.setattr("structsam_runtime.pictures.reading.STRIP", 20)
    assert STRIP > 20
    assert [top for top, _ in _strips(Image.fromarray(rgb))] == [0, 2, 4]
    for mode, pixels in whole.items():
        np.testing.assert_array_equal(read_image(Image.fromarray(rgb).convert(mode)), pixels)


def test_of_an_animation_the_first_frame_is_taken_with_a_word(rgb: NDArray[np.uint8], told: Told) -> None:
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    for name in ("PNG", "TIFF", "GIF", "WEBP"):
        options = {"lossless": True} if name == "WEBP" else {}
        one = read_image(saved(first, name, **options), note=told)
        assert told.kinds == []
        both = saved(first, name, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(read_image(both, note=told), one)
        assert told.kinds.pop() == "frames"
        assert told.remarks.pop() == "the picture has several frames; the first is taken"


def test_damage_behind_the_first_frame_does_no_harm(rgb: NDArray[np.uint8]) -> None:
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    both = saved(first, "GIF", save_all=True, append_images=[second])
    alone = saved(first, "GIF")
    for length in range(len(alone), len(both)):
        assert read_image(both[:length], note=lambda kind, remark: None).shape == (6, 9, 3)


def _min_max(values: NDArray[Any]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / (high - low) * 255


@given(
    arrays.arrays(np.uint16, (4, 5), elements=st.integers(0, 0xFFFF)),
    st.sampled_from(["png", "tiff", "<", ">"]),
)
def test_sixteen_bits_keep_their_range_if_they_use_it(values: NDArray[np.uint16], how: str) -> None:
    """Other than by its formula, a picture is told of."""
    values[0, :2] = 0, 0x4000
    told = Told()
    if how in "<>":
        data = tiff(values, photometric="minisblack", byteorder=how)
    else:
        data = saved(Image.fromarray(values), how)
    pixels = read_image(data, note=told)
    exact = np.floor(values / 257 + 0.5)
    np.testing.assert_array_equal(pixels, np.repeat(exact[:, :, None], 3, axis=2))
    assert told.kinds in ([], ["dark"])


@given(arrays.arrays(np.uint16, (4, 5), elements=st.integers(0, 0x3FFE)), st.integers(0, 0xC000))
def test_sixteen_bits_that_use_little_of_their_range_are_stretched(
    values: NDArray[np.uint16], low: int
) -> None:
    values[0, :2] = 0, 1
    values += np.uint16(low)
    for data in (saved(Image.fromarray(values), "PNG"), tiff(values, photometric="minisblack")):
        told = Told()
        pixels = read_image(data, note=told)
        np.testing.assert_allclose(pixels[:, :, 1], _min_max(values), atol=0.5)
        assert (told.kinds, pixels.max(), pixels.min()) == (["stretched"], 255, 0)
        assert f"from {values.min()} to {values.max():g}"[:10] in told.remarks[0]


def test_twelve_bits_in_sixteen_look_like_their_twin_in_eight(
    photos: dict[str, NDArray[np.uint8]], told: Told
) -> None:
    eight = photos["coffee"]
    twelve = eight.astype(np.uint16) * 16
    grey = read_image(saved(Image.fromarray(twelve[:, :, 0]), "PNG"), note=told)[:, :, 0]
    np.testing.assert_allclose(grey, _min_max(eight[:, :, 0]), atol=1)
    colour = read_image(tiff(twelve, photometric="rgb"), note=told)  # Pillow keeps 16 levels
    np.testing.assert_allclose(colour, _min_max(eight), atol=17)
    assert told.kinds == ["stretched"] * 2
    assert "uses 16 of the 256 levels that Pillow keeps of 16-bit colours" in told.remarks[1]


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_wide_and_floating_point_values_are_stretched(kind: str, order: str, told: Told) -> None:
    """In the order that they have: nothing wraps around."""
    span = (-1e9, 1e9) if kind == "float32" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = np.linspace(*span, 63).astype(kind).reshape(7, 9)
    data = tiff(values, photometric="minisblack", byteorder=order)
    if (kind, order) == ("uint32", ">"):
        with pytest.raises(UserError, match="TIFF: unknown pixel mode"):  # Pillow does not take it
            read_image(data)
        return
    pixels = read_image(data, note=told)
    np.testing.assert_allclose(pixels[:, :, 0], _min_max(values.astype(np.float64)), atol=0.51)
    assert told.kinds == ["stretched"]
    assert kind.removeprefix("u") in told.remarks[0] or kind == "int16"


def test_values_of_a_signed_kind_that_are_not_negative_are_stretched(told: Told) -> None:
    values = np.linspace(0, 32767, 12).astype(np.int16).reshape(3, 4)
    pixels = read_image(tiff(values, photometric="minisblack"), note=told)
    assert (pixels.min(), pixels.max(), told.kinds) == (0, 255, ["stretched"])


def test_what_is_not_finite_is_no_part_of_the_range(told: Told) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 1, 2, 3]], np.float32)
    pixels = read_image(tiff(values, photometric="minisblack"), note=told)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 255, 0, 128, 255])
    with pytest.raises(UserError, match="the picture has no finite value"):
        read_image(tiff(values[:, :3], photometric="minisblack"))


@pytest.mark.parametrize("value", [0.25, 70_000])
def test_one_value_everywhere_is_black_with_a_word(value: float, told: Told) -> None:
    values = np.full((4, 4), value, np.float32 if value < 1 else np.int32)
    assert not read_image(tiff(values, photometric="minisblack"), note=told).any()
    assert f"only the value {value:g}" in told.remarks[0]


def test_a_range_that_a_few_hot_pixels_use_alone_is_told(told: Told) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (100, 100), np.uint16)
    values[50, 50] = 0xFFFF
    assert np.median(read_image(saved(Image.fromarray(values), "PNG"), note=told)) < 10
    assert told.kinds == ["dark"]
    assert "is nearly black" in told.remarks[0]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_eight_bits_are_never_stretched(mode: str, told: Told) -> None:
    dark = np.random.default_rng(0).integers(0, 9, (8, 8, 3), np.uint8)
    image = Image.fromarray(dark).convert(mode)
    np.testing.assert_array_equal(
        read_image(saved(image, "PNG"), note=told), np.asarray(image.convert("RGB"))
    )
    assert told.kinds == []


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "layout", [{}, {"rowsperstrip": 3}, {"tile": (16, 16)}, {"compression": "zlib"}], ids=str
)
@pytest.mark.parametrize("bands", [3, 4])
def test_sixteen_bits_band_by_band_are_not_scrambled(order: str, layout: dict[str, Any], bands: int) -> None:
    values = np.random.default_rng(0).integers(0, 0x10000, (bands, 20, 24), np.uint16)
    alpha = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
    how: dict[str, Any] = {"photometric": "rgb", "byteorder": order, **layout, **alpha}
    data = tiff(values, planarconfig="separate", **how)
    np.testing.assert_array_equal(read_image(data), (values[:3] >> 8).transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
def test_one_band_may_call_itself_band_by_band(kind: str) -> None:
    image = Image.fromarray(np.linspace(0, 200, 63).astype(kind).reshape(7, 9))
    plain, planar = (saved(image, "TIFF", tiffinfo=tags) for tags in ({}, {284: 2}))
    quiet = Told()
    np.testing.assert_array_equal(read_image(planar, note=quiet), read_image(plain, note=quiet))


def test_a_negative_of_sixteen_bits_is_turned() -> None:
    values = np.linspace(0, 0xFFFF, 63).astype(np.uint16).reshape(7, 9)
    black, white = (tiff(values, photometric=f"minis{zero}") for zero in ("black", "white"))
    np.testing.assert_array_equal(read_image(white), 255 - read_image(black))


def test_a_kind_of_tiff_that_pillow_does_not_take_is_named() -> None:
    for values in (np.zeros((4, 4), np.float64), np.zeros((4, 4), np.uint64)):
        with pytest.raises(
            UserError, match=r"is not a picture that Pillow can read \(TIFF: unknown pixel mode\)"
        ):
            read_image(tiff(values, photometric="minisblack"))


def test_remarks_are_lines_on_stderr(capsys: pytest.CaptureFixture[str], rgb: NDArray[np.uint8]) -> None:
    data = tiff(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), photometric="minisblack")
    read_image(data)
    read_image(data)
    line = "note: the picture has float32 pixels with values from 0 to 1; they are stretched to 0..255\n"
    assert capsys.readouterr() == ("", line * 2)
    once = Once()
    for _ in range(3):
        read_image(data, note=once)
    once("other", "b\x1b[31m\n.png is odd")
    first, second = capsys.readouterr().err.splitlines()
    assert first == line.strip() + " (said once for all pictures)"
    assert second == "note: b\\x1b[31m\\n.png is odd (said once for all pictures)"


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="the picture has no pixels"):
        read_image(Image.new("RGB", (0, 5)))
