"""Grids of points and crops against Meta's own functions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.predict.automatic.crops import crops, point_grid, regular_grids


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_grid_is_metas(side: int, meta: SimpleNamespace) -> None:
    np.testing.assert_array_equal(point_grid(side), meta.amg.build_point_grid(side))


def test_grids_of_layers_are_metas(meta: SimpleNamespace) -> None:
    expected = meta.amg.build_all_layer_point_grids(13, 2, 3)
    for ours, theirs in zip(regular_grids(13, 2, 3), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(
    height=st.integers(17, 900),
    width=st.integers(17, 900),
    layers=st.integers(0, 3),
    overlap=st.floats(0, 0.9),
)
def test_crops_are_metas(height: int, width: int, layers: int, overlap: float, meta: SimpleNamespace) -> None:
    boxes, numbers = meta.amg.generate_crop_boxes((height, width), layers, overlap)
    found = crops(height, width, layers, overlap)
    expected = [(tuple(box), layer) for box, layer in zip(boxes, numbers, strict=True)]
    kept = [(box, layer) for box, layer in expected if box[0] < width and box[1] < height]
    assert [(crop.box, crop.layer) for crop in found] == kept
    assert all(crop.width > 0 and crop.height > 0 for crop in found)


@given(places=st.tuples(*[st.integers(0, 119)] * 4))
def test_masks_are_cut_as_metas_are(places: tuple[int, int, int, int], meta: SimpleNamespace) -> None:
    for crop in crops(120, 160, 1, 0.3):
        box = torch.tensor([places])
        expected = meta.amg.is_box_near_crop_edge(box, list(crop.box), [0, 0, 160, 120])
        x, y = crop.x0, crop.y0
        moved = (places[0] + x, places[1] + y, places[2] + x, places[3] + y)
        assert crop.cuts(moved, (120, 160)) == bool(expected)
