"""Drawn objects and the canvas they are put on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structsam_export.training.scenes import OUTLINES, STROKES, VISIBLE, Canvas, Layer, fill, solid, thin

Make = Callable[[np.random.Generator], Any]
TEXTURES = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8))]


@pytest.mark.parametrize("make", OUTLINES)
def test_outlines_fill_the_unit_square(make: Make) -> None:
    for seed in range(20):
        points = make(np.random.default_rng(seed))
        assert points.min(axis=0) == pytest.approx([0, 0])
        assert points.max(axis=0) == pytest.approx([1, 1])


@pytest.mark.parametrize("make", STROKES)
def test_strokes_stay_in_the_unit_square(make: Make) -> None:
    for seed in range(20):
        lines = make(np.random.default_rng(seed))
        assert lines
        assert all(len(line) >= 2 and line.min() >= 0 and line.max() <= 1 for line in lines)


def test_what_is_drawn_follows_from_the_generator() -> None:
    def draw(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        made = solid(rng, 40, 30), thin(rng, 40, 30), fill(rng, 40, 30, TEXTURES)
        assert [image.size for image in made] == [(40, 30)] * 3
        assert [image.mode for image in made] == ["L", "L", "RGB"]
        return [image.tobytes() for image in made]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_thin_is_thin_and_solid_is_not() -> None:
    """Mean share of the square that is covered."""

    def cover(draw: Callable[..., Image.Image]) -> float:
        masks = [draw(np.random.default_rng(seed), 200, 200) for seed in range(40)]
        return float(np.mean([np.asarray(mask) for mask in masks])) / 255

    assert 0.002 < cover(thin) < 0.1
    assert cover(solid) > 0.3


def test_a_canvas_labels_what_is_covered_last() -> None:
    canvas = Canvas(Image.new("RGB", (50, 50)), np.zeros((50, 50), np.uint8))
    layers = []
    for label, (left, top) in enumerate([(-5, 3), (10, 8), (35, 40)], start=1):
        layer = Layer(
            Image.new("RGB", (30, 20), (0, 0, 80 * label)), solid(np.random.default_rng(label), 30, 20)
        )
        canvas.put(layer, left, top, label)
        layers.append((layer, left, top, label))
    for y in range(50):
        for x in range(50):
            expected = 0
            for layer, left, top, label in layers:
                inside = 0 <= x - left < 30 and 0 <= y - top < 20
                if inside and layer.mask.getpixel((x - left, y - top)) >= VISIBLE:
                    expected = label
            assert canvas.labels[y, x] == expected
    assert set(np.unique(canvas.labels)) == {0, 1, 2, 3}


def test_a_shadow_darkens_but_is_not_labelled() -> None:
    canvas = Canvas(Image.new("RGB", (60, 60), "white"), np.zeros((60, 60), np.uint8))
    layer = Layer(Image.new("RGB", (20, 20), "white"), Image.new("L", (20, 20), 255))
    canvas.put(layer, 10, 10, 1, shadow=0.5)
    assert np.asarray(canvas.image).min() < 200
    assert (canvas.labels == 1).sum() == 400
