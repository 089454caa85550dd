"""Metrics against hand-made cases and plain loops."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from structsam_runtime.evaluation.metrics import boundary, boundary_iou, dice, interval, iou

COCO = Path(__file__).parents[3] / "../shared/data/coco-train/annotations"
Mask = NDArray[np.bool_]
Metric = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
MASKS = array_shapes(min_dims=2, max_dims=2, max_side=14).flatmap(lambda shape: arrays(np.bool_, shape))
PAIRS = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(lambda shape: arrays(np.bool_, (2, *shape)))


def rectangle(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Mask:
    """Rows top..bottom - 1 and columns left..right - 1 of a height x width picture."""
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def pixels(mask: Mask) -> set[tuple[int, int]]:
    """The places of a mask's pixels, found one by one."""
    height, width = mask.shape
    return {(row, column) for row in range(height) for column in range(width) if mask[row, column]}


def eroded_once(mask: Mask) -> Mask:
    """One erosion by a 3 x 3 square by its definition, with zeros around the picture."""
    inside, eroded = pixels(mask), np.zeros_like(mask)
    for row, column in inside:
        around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
        eroded[row, column] = around <= inside
    return eroded


def band_by_definition(mask: Mask, distance: int) -> Mask:
    """Mask minus its erosion by ``distance`` iterations of a 3 x 3 square."""
    eroded = mask
    for _ in range(distance):
        eroded = eroded_once(eroded)
    return mask & ~eroded


def band_by_scipy(mask: Mask, distance: int) -> Mask:
    """The same at a picture's size."""
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


def distance(mask: Mask, ratio: float = 0.02) -> int:
    height, width = mask.shape
    return max(1, round(ratio * math.sqrt(height**2 + width**2)))


# Two squares of side 6, one moved by a column: 30 pixels in both, 42 in either. Their rings, one pixel wide,
# have 20 pixels each and share 5 in the upper and 5 in the lower row.
SQUARE, MOVED = rectangle(12, 12, 2, 2, 8, 8), rectangle(12, 12, 2, 3, 8, 9)


def test_by_hand() -> None:
    assert iou(SQUARE, MOVED) == 30 / 42
    assert dice(SQUARE, MOVED) == 60 / 72
    assert boundary_iou(SQUARE, MOVED) == 10 / 30


@given(PAIRS)
def test_counts_pixels(pair: Mask) -> None:
    a, b = (pixels(mask) for mask in pair)
    assert iou(*pair) == (len(a & b) / len(a | b) if a | b else 1)
    assert dice(*pair) == (2 * len(a & b) / (len(a) + len(b)) if a | b else 1)


@given(PAIRS)
def test_boundary_iou_is_the_iou_of_the_bands(pair: Mask) -> None:
    a, b = (pixels(band_by_definition(mask, 1)) for mask in pair)
    assert boundary_iou(*pair) == (len(a & b) / len(a | b) if a | b else 1)


@pytest.mark.parametrize("metric", [iou, dice, boundary_iou])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (40, 60)])
def test_empty_and_full_masks(metric: Metric, size: tuple[int, int]) -> None:
    empty, full = np.zeros(size, np.bool_), np.ones(size, np.bool_)
    assert metric(empty, empty) == 1
    assert metric(full, full) == 1
    assert metric(empty, full) == metric(full, empty) == 0


@pytest.mark.parametrize("metric", [iou, dice, boundary_iou])
def test_objects_of_one_pixel(metric: Metric) -> None:
    corner, other = rectangle(9, 9, 0, 0, 1, 1), rectangle(9, 9, 4, 4, 5, 5)
    assert metric(corner, corner) == metric(other, other) == 1
    assert metric(corner, other) == 0


@pytest.mark.parametrize("metric", [iou, dice, boundary_iou])
def test_takes_any_leading_axes_and_leaves_the_masks_alone(metric: Metric) -> None:
    a, b = np.random.default_rng(0).random((2, 2, 3, 10, 12)) < 0.7
    before = a.copy(), b.copy()
    got = metric(a, b)
    assert got.dtype == np.float64
    assert got.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert got[index] == metric(a[index], b[index])
    np.testing.assert_array_equal((a, b), before)
    assert metric(a[:0], b[:0]).shape == (0, 3)


@pytest.mark.parametrize("metric", [iou, dice, boundary_iou])
def test_what_is_no_pair_of_masks_is_refused(metric: Metric) -> None:
    mask = np.ones((4, 6), np.bool_)
    with pytest.raises(ValueError, match=r"masks of shapes \[4, 6\] and \[1, 6\]"):
        metric(mask, mask[:1])
    with pytest.raises(ValueError, match=r"masks of shapes \[4, 6\] and \[1, 4, 6\]"):
        metric(mask, mask[None])
    with pytest.raises(ValueError, match="a mask of uint8, expected bool"):
        metric(mask, mask.astype(np.uint8) * 255)
    with pytest.raises(ValueError, match="a mask of float32, expected bool"):
        metric(mask.astype(np.float32), mask)


@given(MASKS, st.floats(0, 0.6))
def test_boundary_is_what_iterated_erosion_takes_away(mask: Mask, ratio: float) -> None:
    np.testing.assert_array_equal(boundary(mask, ratio), band_by_definition(mask, distance(mask, ratio)))


def test_boundary_of_many_masks_is_that_of_each() -> None:
    masks = np.random.default_rng(0).random((2, 3, 15, 20)) < 0.9
    masks[1, 1] = False
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(boundary(masks)[index], band_by_definition(masks[index], 1))


def test_where_the_picture_ends_there_is_a_boundary() -> None:
    mask = rectangle(20, 20, 0, 0, 20, 10)
    np.testing.assert_array_equal(boundary(mask), mask & ~rectangle(20, 20, 1, 1, 19, 9))
    np.testing.assert_array_equal(boundary(~mask), ~mask & ~rectangle(20, 20, 1, 11, 19, 19))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), 1),
        ((45, 60), 2),  # 0.02 x 75 = 1.5
        ((75, 100), 2),  # 0.02 x 125 = 2.5: half to even
        ((480, 640), 16),
        ((1024, 2048), 46),
    ],
)
def test_the_band_is_a_fiftieth_of_the_diagonal_wide(size: tuple[int, int], expected: int) -> None:
    height, width = size
    inner = rectangle(height, width, expected, expected, height - expected, width - expected)
    np.testing.assert_array_equal(boundary(np.ones(size, np.bool_)), ~inner)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_boundary_of_a_large_picture(channel: int) -> None:
    grey = skimage.data.astronaut()[:, :, channel].repeat(2, axis=0).repeat(4, axis=1)
    for mask in (grey > 60, np.fliplr(grey < 200).T):  # also one whose pixels do not lie in a row
        np.testing.assert_array_equal(boundary(mask), band_by_scipy(mask, 46))


@pytest.mark.skipif(not COCO.exists(), reason="the annotated COCO pictures are not there")
def test_boundary_of_real_objects() -> None:
    annotations = json.loads((COCO / "panoptic_train2017.json").read_text(encoding="utf-8"))["annotations"]
    several = 0
    for annotation in annotations[:20]:
        with Image.open(COCO / "panoptic_train2017" / annotation["file_name"]) as picture:
            colours = np.asarray(picture.convert("RGB"), np.int64)
        numbers = colours @ [1, 256, 65536]
        for segment in annotation["segments_info"]:
            mask = numbers == segment["id"]
            np.testing.assert_array_equal(boundary(mask), band_by_scipy(mask, distance(mask)))
            several += 1
    assert several > 100


@pytest.mark.parametrize(("level", "low", "high"), [(0.95, 0.15, 0.9), (0.4, 0.4, 0.4)])
def test_interval_of_two_pictures_by_hand(level: float, low: float, high: float) -> None:
    # Drawn: twice the first picture (one in four), twice the second (one in four), or both. With both, each
    # prompt counts as much as any other.
    got = interval(np.array([0.0, 0.3, 0.9]), ["a", "a", "b"], level)
    np.testing.assert_allclose((got.mean, got.low, got.high), (0.4, low, high), rtol=0, atol=1e-15)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_interval_is_that_of_all_resamples(level: float) -> None:
    random = np.random.default_rng(1)
    groups = [random.random(count) for count in (1, 4, 2, 7, 3, 1)]
    draws = itertools.product(groups, repeat=len(groups))
    means = [np.concatenate(draw).mean() for draw in draws]  # 6^6 = 46656
    names = [name for name, group in zip("fbdace", groups, strict=True) for _ in group]
    got = interval(np.concatenate(groups), names, level)
    expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # An end of 9999 draws has a standard error of some 0.002 here.
    np.testing.assert_allclose([got.low, got.high], expected, atol=0.01)
    assert got.mean == np.concatenate(groups).mean()


def test_interval_does_not_depend_on_the_order_of_pictures_and_repeats_itself() -> None:
    values, names = np.random.default_rng(2).random(30), [f"picture {number % 7}" for number in range(30)]
    order = np.random.default_rng(3).permutation(30)
    got = interval(values, names)
    assert interval(values, names) == got
    again = interval(values[order], [names[place] for place in order])
    np.testing.assert_allclose((again.low, again.high), (got.low, got.high), rtol=1e-12)


def test_prompts_on_one_picture_are_not_independent() -> None:
    values, names = np.linspace(0, 1, 10).repeat(20), [str(number // 20) for number in range(200)]
    by_picture, by_prompt = interval(values, names), interval(values, [str(number) for number in range(200)])
    # Equal prompts bring nothing new: the interval is that of 10 values, sqrt(20) times as wide.
    ratio = (by_picture.high - by_picture.low) / (by_prompt.high - by_prompt.low)
    assert ratio == pytest.approx(math.sqrt(20), rel=0.05)


def test_interval_where_nothing_varies_or_nothing_is_known() -> None:
    same = interval(np.full(6, 0.7), list("aabbcc"))
    np.testing.assert_allclose((same.mean, same.low, same.high), 0.7, rtol=1e-12)
    alone = interval(np.array([0.2, 0.4]), ["a", "a"])
    assert alone.mean == pytest.approx(0.3)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


@pytest.mark.parametrize(
    ("values", "names", "level", "message"),
    [
        ([], [], 0.95, "of 0 prompts"),
        ([1.0, 2.0], ["a"], 0.95, "of 1 prompts"),
        ([[1.0, 2.0]], ["a", "b"], 0.95, "of 2 prompts"),
        ([1.0, math.nan], ["a", "b"], 0.95, "not finite"),
        ([1.0, 2.0], ["a", "b"], 95, "level of 95"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[float], names: list[str], level: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interval(np.array(values), names, level)
