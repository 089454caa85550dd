"""Tiny datasets in the layouts of the real ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 6, 9
SHAPES = {
    "one pixel": (slice(2, 3), slice(4, 5)),
    "whole picture": (slice(None), slice(None)),
    "top left corner": (slice(0, 2), slice(0, 3)),
    "bottom right corner": (slice(4, 6), slice(7, 9)),
    "one row": (slice(3, 4), slice(1, 8)),
    "empty": (slice(0, 0), slice(0, 0)),
}


def save(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16] | None = None) -> Path:
    """Write pixels as a file of the kind that its suffix says; without pixels, a picture of 9 x 6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(name="save")
def save_fixture() -> Callable[..., Path]:
    """``save(path, pixels)``."""
    return save


@pytest.fixture(params=SHAPES)
def mask(request: pytest.FixtureRequest) -> NDArray[np.bool_]:
    """Masks of 6 x 9 that are easy to get wrong."""
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[SHAPES[request.param]] = True
    return drawn


@pytest.fixture
def square() -> NDArray[np.bool_]:
    """A mask of 6 x 9 with 2 x 3 pixels in it."""
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[1:3, 2:5] = True
    return drawn
