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


@given(st.integers(1, 700), st.integers(1, 700), st.booleans())
def test_probabilities_are_interpolated_at_once(height: int, width: int, hard: bool) -> None:
    """MedSAM's masks: a sigmoid, one bilinear step, and a threshold of one half."""
    frame = Frame.of(height, width, 1024, "stretch")
    low_res = _logits(1, 2, seed=height) * (np.float32(20) if hard else np.float32(0.1))
    shares = torch.sigmoid(torch.from_numpy(low_res))
    expected = torch.nn.functional.interpolate(shares, (height, width), mode="bilinear").numpy()
    logits = upscale(low_res, frame, "probabilities")
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits.astype(np.float64))), expected, rtol=0, atol=1e-5)
    mask = binary(low_res, frame, 0.0, "probabilities")
    np.testing.assert_array_equal(mask, logits > 0)
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(mask[clear], expected[clear] > 0.5)


@given(st.integers(20, 700), st.integers(20, 700))
def test_probabilities_of_a_padded_picture_are_cut_off_with_the_padding(height: int, width: int) -> None:
    """What lies in the padding alone reaches the picture no further than one bilinear step does."""
    frame = Frame.of(height, width, 1024)
    low_res = np.full((1, 1, 256, 256), -4, np.float32)
    low_res[..., frame.resized_height // 4 + 1 :, :] = 4
    low_res[..., :, frame.resized_width // 4 + 1 :] = 4
    inside = binary(low_res, frame, 0.0, "probabilities")[0, 0]
    assert not inside[: height - height // 16 - 1, : width - width // 16 - 1].any()


def test_probabilities_keep_a_threshold_in_logits() -> None:
    frame = Frame.of(300, 451, 1024, "stretch")
    low_res = _logits(1, 2) / 5
    got = binary(low_res, frame, 1.5, "probabilities")
    clear = np.abs(upscale(low_res, frame, "probabilities") - 1.5) > TOLERANCE
    np.testing.assert_array_equal(got[clear], (upscale(low_res, frame, "probabilities") > 1.5)[clear])
    assert got.any()


@given(st.integers(20, 700), st.integers(20, 700), st.sampled_from([-0.5, 0.0, 2.5]))
def test_the_part_above_a_level_of_probabilities(height: int, width: int, level: float) -> None:
    frame = Frame.of(height, width, 1024, "stretch")
    low_res = np.full((256, 256), -3, np.float32)
    low_res[100:150, 30:90] = _logits(1, 1, seed=height)[0, 0, 100:150, 30:90]
    part, y, x = upscale_above(low_res, frame, level, "probabilities")
    whole = upscale(low_res, frame, "probabilities")
    rows, columns = slice(y, y + part.shape[0]), slice(x, x + part.shape[1])
    # Logits of probabilities beside 0 and 1 magnify the last digits, so that probabilities are compared.
    np.testing.assert_allclose(np.tanh(part / 2), np.tanh(whole[rows, columns] / 2), rtol=0, atol=1e-5)
    outside = np.ones(whole.shape, np.bool_)
    outside[rows, columns] = False
    assert (whole[outside] <= level + TOLERANCE).all()


def test_takes_any_leading_axes() -> None:
    frame = Frame.of(60, 40, 1024)
    low_res = _logits(2, 3)
    np.testing.assert_array_equal(upscale(low_res, frame)[1], upscale(low_res[1], frame))
    np.testing.assert_array_equal(upscale(low_res, frame)[1, 2], upscale(low_res[1, 2], frame))
