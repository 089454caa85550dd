"""Resizing by splines against scikit-image, whose `transform.resize` MedSAM's inference calls."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import transform

from structsam_runtime.predict.spline import resize

RETINA = skimage.data.retina()[100:1000]  # 900 x 1411
GREY = np.repeat(skimage.data.camera()[:, :, None], 3, axis=2)
COFFEE = skimage.data.coffee()  # 400 x 600
PICTURES = {
    "retina": RETINA,
    "wide retina": RETINA[300:500],
    "grey": GREY,
    "coffee": COFFEE,
    "narrow coffee": COFFEE[:, 200:237],
}
sides = st.integers(1, 40)


def reference(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The published call, on float64."""
    resized = transform.resize(picture, size, order=3, preserve_range=True, anti_aliasing=True)
    return np.asarray(resized.astype(np.uint8))


def check(picture: NDArray[np.uint8], size: tuple[int, int], share: float) -> None:
    """Equal but for a level, where a sum is a whole number up to its last digits and the fraction is dropped.

    Args:
        share: of the values may differ. 0.6 % do of a photograph of which a third is one colour.
    """
    got, expected = resize(picture, size), reference(picture, size)
    assert (got.dtype, got.shape) == (np.uint8, (*size, 3))
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= share


@pytest.mark.parametrize("name", PICTURES)
def test_photographs_are_scikit_images(name: str) -> None:
    check(PICTURES[name], (256, 256), share=0.01)


def test_a_photograph_larger_than_it_was() -> None:
    check(COFFEE[100:300, 200:400], (448, 512), share=0.001)


@given(st.integers(0, 2**32 - 1), sides, sides, sides, sides)
def test_any_size_to_any_size(seed: int, height: int, width: int, tall: int, wide: int) -> None:
    """Noise, which a wrong weight or border shows in at once; down to a single pixel."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    # A single row or column is a flat area along its axis, so that more sums are whole numbers.
    check(picture, (tall, wide), share=1 if min(height, width) == 1 else 0.02)


def test_half_of_a_picture_of_one_colour() -> None:
    picture = COFFEE.copy()
    picture[200:] = 77
    check(picture, (256, 256), share=0.02)


def test_no_filter_of_pillows_would_do() -> None:
    """What a simpler resize would cost, in levels; most of it beside edges."""
    expected = reference(COFFEE, (256, 256)).astype(int)
    for filter in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        other = np.asarray(Image.fromarray(COFFEE).resize((256, 256), filter)).astype(int)
        assert np.abs(other - expected).max() > 40
        assert np.percentile(np.abs(other - expected), 99) > 8


def test_the_picture_stays(photos: dict[str, NDArray[np.uint8]]) -> None:
    before = photos["coffee"].copy()
    made = resize(photos["coffee"], (64, 48))
    made[:] = 0
    np.testing.assert_array_equal(photos["coffee"], before)
    assert resize(photos["coffee"], (64, 48)).any()
