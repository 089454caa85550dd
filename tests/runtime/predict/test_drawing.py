"""Masks painted on a photograph."""

from itertools import pairwise

import numpy as np
import pytest

from structsam_runtime.predict.drawing import distinct, line_width, paint

RED = (255, 0, 0)


def test_a_mask_is_filled_and_its_inner_edge_is_lined() -> None:
    canvas = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:25] = True
    paint(canvas, mask, RED, 2)
    inner = np.zeros_like(mask)
    inner[7:13, 12:23] = True
    assert (canvas[~mask] == 100).all()
    assert (canvas[mask & ~inner] == RED).all()
    assert (canvas[inner] == (170, 55, 55)).all()  # 0.55 of 100, and 0.45 of the colour


def test_the_rim_of_the_picture_is_no_edge() -> None:
    canvas = np.zeros((8, 8, 3), np.uint8)
    paint(canvas, np.ones((8, 8), bool), RED, 3)
    assert (canvas == (115, 0, 0)).all()


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_one_pixel_is_all_line(place: tuple[int, int]) -> None:
    canvas, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    mask[place] = True
    paint(canvas, mask, RED, 1)
    assert (canvas[~mask] == 0).all()
    assert tuple(canvas[place]) == RED


def test_no_mask_changes_nothing() -> None:
    canvas = np.zeros((8, 8, 3), np.uint8)
    paint(canvas, np.zeros((8, 8), bool), RED, 1)
    assert (canvas == 0).all()


def test_colours_are_distinct() -> None:
    colours = distinct(200)
    assert len(set(colours)) == 200
    assert all(np.abs(np.subtract(one, other)).max() > 60 for one, other in pairwise(colours))


def test_large_photographs_get_wide_lines() -> None:
    assert (line_width(10, 10), line_width(600, 400), line_width(3000, 6000)) == (1, 2, 20)
