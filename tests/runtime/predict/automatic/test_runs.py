"""Runs of pixels against the masks that they stand for, and against pycocotools."""

from types import SimpleNamespace

import numpy as np
import pycocotools.mask
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from structsam_runtime.predict.automatic.runs import Runs, decode_rle

Mask = NDArray[np.bool_]
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))
EDGES = [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, dtype=bool), np.ones((0, 0), bool)]


@given(MASKS)
def test_round_trip(mask: Mask) -> None:
    runs = Runs.of(mask)
    decoded = runs.decode()
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    assert runs.area() == mask.sum()
    start, stop = runs.places()
    assert (start < stop).all()
    assert (stop[:-1] < start[1:]).all()


@pytest.mark.parametrize("mask", EDGES)
def test_nothing_everything_and_corners(mask: Mask) -> None:
    np.testing.assert_array_equal(Runs.of(mask).decode(), mask)
    np.testing.assert_array_equal(Runs.of(mask).inverted().decode(), ~mask)


@given(mask=MASKS)
def test_rle_is_pycocotools_and_metas(mask: Mask, meta: SimpleNamespace) -> None:
    rle = Runs.of(mask).rle()
    np.testing.assert_array_equal(decode_rle(rle), mask)
    compressed = pycocotools.mask.frPyObjects(rle, *mask.shape)
    assert compressed == pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    assert rle == meta.amg.mask_to_rle_pytorch(torch.from_numpy(mask)[None])[0]


@given(mask=MASKS)
def test_box_is_metas(mask: Mask, meta: SimpleNamespace) -> None:
    expected = meta.amg.batched_mask_to_box(torch.from_numpy(mask)[None])[0]
    assert list(Runs.of(mask).box()) == expected.tolist()


@given(MASKS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_placed_in_a_larger_mask(mask: Mask, top: int, left: int, below: int, right: int) -> None:
    expected = np.pad(mask, ((top, below), (left, right)))
    moved = Runs.of(mask).placed(top, left, expected.shape)
    np.testing.assert_array_equal(moved.decode(), expected)
    assert moved.rle() == Runs.of(expected).rle()


@given(MASKS)
def test_inverted_are_the_other_pixels(mask: Mask) -> None:
    inverted = Runs.of(mask).inverted()
    np.testing.assert_array_equal(inverted.decode(), ~mask)
    assert inverted.rle() == Runs.of(~mask).rle()


def test_a_mask_is_taken_apart_by_runs() -> None:
    mask = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]], bool)  # runs: two, one, one
    kept = Runs.of(mask).take(np.array([False, True, False, True]))
    np.testing.assert_array_equal(kept.decode(), [[0, 0, 1], [0, 0, 1], [1, 0, 0]])
