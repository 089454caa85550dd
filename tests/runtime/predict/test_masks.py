"""Upscaling against torch's interpolation, as Sam.postprocess_masks does it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime.predict.image import Frame
from structsam_runtime.predict.masks import binary, upscale, upscale_above

# Absolute, for logits of scale 10. Both sides work in float32 and add in another order, which gives 1e-5; the
# rest is for a processor whose PyTorch rounds the place of a pixel twice.
TOLERANCE = 1e-4


def _logits(count: int, masks: int, seed: int = 0) -> NDArray[np.float32]:
    return (10 * np.random.default_rng(seed).normal(size=(count, masks, 256, 256))).astype(np.float32)


@pytest.mark.parametrize(
    "size",
    [(512, 512), (300, 451), (451, 300), (400, 600), (1024, 1024), (37, 1201), (1500, 999), (480, 640)],
)
def test_equals_sams_postprocessing(size: tuple[int, int], meta: SimpleNamespace) -> None:
    frame = Frame.of(*size, 1024)
    low_res = _logits(2, 1)
    stand_in = SimpleNamespace(image_encoder=SimpleNamespace(img_size=1024))
    resized = (frame.resized_height, frame.resized_width)
    expected = meta.Sam.postprocess_masks(stand_in, torch.from_numpy(low_res), resized, size).numpy()
    got = upscale(low_res, frame)
    assert got.dtype == np.float32
    assert got.shape == (2, 1, *size)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(300, 451), (1201, 37), (1500, 999)])
def test_masks_of_a_stretched_picture_lose_nothing(size: tuple[int, int]) -> None:
    low_res = _logits(2, 1)
    square = torch.nn.functional.interpolate(torch.from_numpy(low_res), (1024, 1024), mode="bilinear")
    expected = torch.nn.functional.interpolate(square, size, mode="bilinear").numpy()
    got = upscale(low_res, Frame.of(*size, 1024, "stretch"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@given(st.integers(20, 700), st.integers(20, 700))
def test_a_constant_stays_constant_and_nothing_overshoots(height: int, width: int) -> None:
    frame = Frame.of(height, width, 1024)
    np.testing.assert_allclose(upscale(np.full((1, 256, 256), 7, np.float32), frame), 7, rtol=1e-6)
    low_res = _logits(1, 1, seed=height)
    got = upscale(low_res, frame)
    assert got.min() >= low_res.min() - TOLERANCE
    assert got.max() <= low_res.max() + TOLERANCE


def test_binary_is_the_upscaled_mask_above_its_threshold() -> None:
    frame = Frame.of(300, 451, 1024)
    low_res = _logits(2, 3)
    got = binary(low_res, frame, 0.5)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, upscale(low_res, frame) > 0.5)


@given(
    st.integers(20, 700),
    st.integers(20, 700),
    st.tuples(*[st.integers(0, 255)] * 4),
    st.sampled_from([-0.5, 0.0, 2.5]),
)
def test_the_part_above_a_level_is_all_that_is_above_it(
    height: int, width: int, corners: tuple[int, int, int, int], level: float
) -> None:
    frame = Frame.of(height, width, 1024)
    (top, bottom), (left, right) = sorted(corners[:2]), sorted(corners[2:])
    low_res = np.full((256, 256), -3, np.float32)
    low_res[top:bottom, left:right] = _logits(1, 1, seed=height)[0, 0, top:bottom, left:right]
    part, y, x = upscale_above(low_res, frame, level)
    placed = np.full((height, width), -np.inf, np.float32)
    placed[y : y + part.shape[0], x : x + part.shape[1]] = part
    whole = upscale(low_res, frame)
    np.testing.assert_array_equal(np.isfinite(placed) | (whole <= level), True)
    np.testing.assert_allclose(part, whole[np.isfinite(placed)].reshape(part.shape), rtol=0, atol=TOLERANCE)
    if not (low_res > level).any():
        assert part.size == 0


def test_takes_any_leading_axes() -> None:
    frame = Frame.of(60, 40, 1024)
    low_res = _logits(2, 3)
    np.testing.assert_array_equal(upscale(low_res, frame)[1], upscale(low_res[1], frame))
    np.testing.assert_array_equal(upscale(low_res, frame)[1, 2], upscale(low_res[1, 2], frame))
