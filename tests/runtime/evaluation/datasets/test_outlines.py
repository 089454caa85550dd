"""Polygons and run lengths: pycocotools' masks where they are sound, and one line before C code where not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets.outlines import _uncompressed, check_polygon, mask_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
coordinates = st.floats(-20, 60, width=32)


def encoded(mask: NDArray[np.bool_]) -> Any:
    return run_lengths.encode(np.asfortranarray(mask, np.uint8))


@given(masks)
def test_run_lengths_come_back(mask: NDArray[np.bool_]) -> None:
    rle = {"size": list(mask.shape), "counts": encoded(mask)["counts"]}
    text = {**rle, "counts": rle["counts"].decode()}
    plain = {**rle, "counts": _uncompressed(rle["counts"])}
    for drawn in (rle, text, plain):
        np.testing.assert_array_equal(mask_of(drawn, *mask.shape), mask)


@given(
    st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7), min_size=1, max_size=3)
)
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons: list[list[tuple[float, float]]]) -> None:
    drawn = [[float(place) for corner in polygon for place in corner] for polygon in polygons]
    try:
        mask = mask_of(drawn, 30, 40)
    except UserError:
        assume(False)
    expected = run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(drawn, 30, 40)))
    np.testing.assert_array_equal(mask, expected.astype(bool))
    assert mask.dtype == np.bool_


def test_no_polygon_is_no_object() -> None:
    assert not mask_of([], 4, 5).any()


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([], r"a polygon is \[\], expected pairs of numbers"),
        ([1, 2, 3], "expected pairs of numbers"),
        ([1, 2, 3, "4"], "expected pairs of numbers"),
        ([1, 2, 3, None], "expected pairs of numbers"),
        ([1, 2, 3, True], "expected pairs of numbers"),
        ([1e9, 2, 3, 4, 5, 6], "leaves its picture of 40 x 30 pixels by more than its size"),
        ([-41, 2, 3, 4, 5, 6], "leaves its picture"),
        ([1, 91, 3, 4, 5, 6], "leaves its picture"),
        ([float("nan"), 2, 3, 4, 5, 6], "leaves its picture"),
        ([float("inf"), 2, 3, 4, 5, 6], "leaves its picture"),
        ([10**400, 2, 3, 4, 5, 6], "leaves its picture"),
        ([0, 0, 40, 30] * 40, "a polygon of 80 corners is longer than its picture has pixels"),
    ],
    ids=str,
)
def test_a_polygon_that_would_harm_is_refused(polygon: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_polygon(polygon, 30, 40)
    with pytest.raises(UserError, match=message):
        mask_of([[1, 1, 5, 1, 5, 5], polygon], 30, 40)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (None, "a segmentation is None, expected polygons or run lengths"),
        ([1, 2, 3, 4], r"a segmentation is \[1, 2, 3, 4\], expected"),
        ("x", "a segmentation is 'x', expected"),
        ([[1, 2, 3, 4]], r"a polygon is \[1, 2, 3, 4\], expected three corners or more"),
        ({"counts": [20]}, r"have the size None, expected \[4, 5\]"),
        ({"size": [5, 4], "counts": [20]}, r"have the size \[5, 4\], expected \[4, 5\]"),
        ({"size": [4, 5], "counts": [7, 6]}, "cover 13 of 20 pixels"),
        ({"size": [4, 5], "counts": [7, 60]}, "cover 67 of 20 pixels"),
        ({"size": [4, 5], "counts": [30, -10]}, "expected whole numbers from 0"),
        ({"size": [4, 5], "counts": [10.0, 10]}, "expected whole numbers from 0"),
        ({"size": [4, 5], "counts": None}, "expected whole numbers from 0"),
        ({"size": [4, 5], "counts": "!"}, "have '!' where COCO's text has none"),
        ({"size": [4, 5], "counts": "P"}, "run lengths are cut short"),
        ({"size": [4, 5], "counts": "o" * 100_000}, "where COCO's text has none"),
        ({"size": [4, 5], "counts": ""}, "cover 0 of 20 pixels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_run_lengths_that_would_harm_are_refused(drawn: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mask_of(drawn, 4, 5)


@given(masks, st.data())
def test_a_damaged_text_is_a_mask_or_one_line(mask: NDArray[np.bool_], data: st.DataObject) -> None:
    text = bytearray(encoded(mask)["counts"])
    place = data.draw(st.integers(0, len(text) - 1))
    text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        made = mask_of({"size": list(mask.shape), "counts": bytes(text)}, *mask.shape)
    except UserError:
        return
    assert made.shape == mask.shape
