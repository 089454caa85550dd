"""Regions found from runs, against SciPy, which looks at pixels."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from structsam_runtime.predict.automatic.regions import regions, remove_small
from structsam_runtime.predict.automatic.runs import Runs

Mask = NDArray[np.bool_]
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))
SPIRAL = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)


def labelled(mask: Mask) -> tuple[Mask, NDArray[np.int64]]:
    """SciPy's labels [H, W] with 0 outside, and the pixels of each region from label 1 on."""
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]


def removed(mask: Mask, area: int) -> tuple[Mask, bool]:
    """The plain version of `remove_small`."""
    labels, pixels = labelled(~mask)
    filled = mask | np.isin(labels, 1 + np.flatnonzero(pixels < area))
    labels, after = labelled(filled)
    large = after >= area
    if len(after) and not large.any():
        large[after.argmax()] = True
    kept = np.isin(labels, 1 + np.flatnonzero(large))
    return kept, bool((pixels < area).any() or (after < area).any())


@given(MASKS)
@example(SPIRAL)
@example(~SPIRAL)
def test_regions_are_scipys(mask: Mask) -> None:
    runs = Runs.of(mask)
    label, pixels = regions(runs)
    labels, expected = labelled(mask)
    assert sorted(pixels) == sorted(expected)
    theirs = labels[runs.start, runs.column]
    assert len(set(zip(label.tolist(), theirs.tolist(), strict=True))) == len(expected)


@given(MASKS, st.integers(1, 30))
@example(SPIRAL, 4)
@example(np.zeros((4, 4), bool), 5)
@example(np.ones((2, 2), bool), 5)
def test_small_regions_are_removed_as_from_pixels(mask: Mask, area: int) -> None:
    expected, expected_change = removed(mask, area)
    tidy, changed = remove_small(Runs.of(mask), area)
    assert changed == expected_change
    assert tidy.area() == expected.sum()
    # Of several equally large islands that are all too small, either may stay.
    if sorted(labelled(mask)[1])[-2:-1] != sorted(labelled(mask)[1])[-1:]:
        np.testing.assert_array_equal(tidy.decode(), expected)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_large_noisy_mask(share: float) -> None:
    mask = np.random.default_rng(0).random((300, 451)) < share
    tidy, changed = remove_small(Runs.of(mask), 12)
    assert changed
    np.testing.assert_array_equal(tidy.decode(), removed(mask, 12)[0])
