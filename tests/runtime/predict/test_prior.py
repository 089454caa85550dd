"""The prior against pixels that are drawn one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.predict.prior import RADIUS, prior

SIDE = 96  # 6 x 6 tokens of 16 pixels

PIXELS = st.integers(0, SIDE - 1)
BOXES = st.lists(
    st.tuples(PIXELS, PIXELS, PIXELS, PIXELS).map(
        lambda box: (min(box[::2]), min(box[1::2]), max(box[::2]), max(box[1::2]))
    ),
    min_size=1,
    max_size=3,
)
PLACES = st.floats(0, SIDE, allow_nan=False)
POINTS = st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def small(sam: Model) -> Model:
    return replace(sam, image_size=SIDE, embedding=(256, 6, 6), low_res=24)


def drawn(boxes: list[tuple[int, int, int, int]]) -> NDArray[np.float64]:
    """The share of every patch that the box that covers most of it covers, both corners drawn."""
    shares = []
    for x0, y0, x1, y1 in boxes:
        picture = np.zeros((SIDE, SIDE))
        picture[y0 : y1 + 1, x0 : x1 + 1] = 1
        shares.append(picture.reshape(6, 16, 6, 16).mean((1, 3)))
    return np.max(shares, axis=0)


def test_a_patch_may_have_8_pixels(sam: Model) -> None:
    fine = replace(sam, image_size=512, embedding=(64, 64, 64))
    got = prior(fine, [[8, 16, 19, 23]])
    expected = np.zeros((1, 64, 64), np.float32)
    expected[0, 2, 1:3] = 1, 0.5
    np.testing.assert_array_equal(got, expected)


def pointed(points: list[tuple[float, float]]) -> NDArray[np.float64]:
    """1 at the nearest point, 0 at RADIUS tokens from it."""
    values = np.zeros((6, 6))
    for row in range(6):
        for column in range(6):
            away = [math.dist((x / 16, y / 16), (column + 0.5, row + 0.5)) for x, y in points]
            values[row, column] = max(0.0, 1 - min(away) / RADIUS)
    return values


@given(boxes=BOXES)
def test_a_token_has_the_share_that_a_box_covers(
    small: Model, boxes: list[tuple[int, int, int, int]]
) -> None:
    """Shares are multiples of 1/256, exact in float32."""
    got = prior(small, boxes)
    assert (got.shape, got.dtype) == ((1, 6, 6), np.float32)
    assert np.array_equal(got[0], drawn(boxes))


@given(points=POINTS)
def test_a_point_fades_over_its_neighbours(small: Model, points: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(prior(small, points=points)[0], pointed(points), rtol=0, atol=1e-6)


@given(boxes=BOXES, points=POINTS)
def test_of_several_prompts_the_highest_value_counts(
    small: Model, boxes: list[tuple[int, int, int, int]], points: list[tuple[float, float]]
) -> None:
    both = prior(small, boxes, points)
    assert np.array_equal(both, np.maximum(prior(small, boxes), prior(small, points=points)))
    assert ((both >= 0) & (both <= 1)).all()
    assert both.max() > 0


def test_without_prompts_it_is_zero(sam: Model) -> None:
    for empty in (prior(sam), prior(sam, np.zeros((0, 4)), np.zeros((0, 2)))):
        assert empty.shape == (1, 64, 64)
        assert not empty.any()


def test_what_lies_outside_of_the_square_does_not_count(small: Model) -> None:
    assert np.array_equal(prior(small, [[-50, -20, 500, 500]])[0], np.ones((6, 6)))
    assert not prior(small, [[200, 200, 300, 300]]).any()


@pytest.mark.parametrize("x", [0.0, 20.0, 112.0, 223.0])
def test_the_window_beside_a_point_has_some_prior_wherever_the_point_lies(sam: Model, x: float) -> None:
    """In the second window of 14 tokens of 16 pixels, in the middle of its height, from border to border."""
    values = prior(sam, points=[[224 + x, 112.0]])[0, :14]
    assert max(values[:, :14].sum(), values[:, 28:42].sum()) > 0
    assert values[:, 14:28].sum() >= max(values[:, :14].sum(), values[:, 28:42].sum())


@pytest.mark.parametrize(
    ("boxes", "points", "message"),
    [
        ([1, 2, 3, 4], None, r"boxes has shape \[4\], expected \[K, 4\]"),
        ([[1, 2, 3]], None, r"boxes has shape \[1, 3\], expected \[K, 4\]"),
        (None, [[1, 2, 3]], r"points has shape \[1, 3\], expected \[K, 2\]"),
        (None, [[1, math.nan]], "points holds NaN or infinity"),
        ([["a", 1, 2, 3]], None, "boxes is not an array of numbers"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(
    sam: Model, boxes: object, points: object, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        prior(sam, boxes, points)
    assert "\n" not in str(refused.value)
