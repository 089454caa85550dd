"""Pictures for a search, and what is asked about them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from structsam_export.tuning.asking import Picture, grid, pictures_of
from structsam_export.tuning.reading import caution, distinct, read
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.predict.prompts import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT


@pytest.fixture(scope="module")
def model(sam: Model) -> Model:
    """SAM at a small size."""
    return dataclasses.replace(sam, image_size=64, embedding=(256, 4, 4), low_res=16)


@given(st.integers(8, 3000), st.integers(8, 3000), st.booleans())
def test_a_grid_lies_within_any_picture(height: int, width: int, boxes_only: bool) -> None:
    frame = Frame.of(height, width, 1024)
    asked = grid(frame, boxes_only)
    assert len(asked) == (9 if boxes_only else 18)
    boxes, points = asked.point_coords[:9], asked.point_coords[9:, 0]
    assert (asked.point_labels[:9] == [TOP_LEFT, BOTTOM_RIGHT]).all()
    assert (asked.point_labels[9:] == [FOREGROUND, PADDING]).all()
    low, high = frame.to_model(np.zeros(2)), frame.to_model(np.array([width, height], np.float64))
    for places in (boxes.reshape(-1, 2), points):
        assert (places >= low).all()
        assert (places <= high).all()
    assert (boxes[:, 0] < boxes[:, 1]).all()


def noise(seed: int, shape: tuple[int, int] = (40, 50)) -> NDArray[np.uint8]:
    """A picture unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1]))


def test_pictures_know_themselves_by_their_pixels(model: Model) -> None:
    first, again, other = pictures_of({"a": noise(0), "b": noise(0), "c": noise(1)}, model)
    assert first.digest == again.digest != other.digest
    assert first.asked == other.asked
    (boxed,) = pictures_of({"a": noise(0)}, model, {"a": [[1, 2, 30, 20]]})
    assert boxed.asked != first.asked
    assert len(boxed.prompts) == 1


def test_few_or_like_pictures_are_told(model: Model) -> None:
    def some(seeds: list[int]) -> list[Picture]:
        return pictures_of({str(index): noise(seed) for index, seed in enumerate(seeds)}, model)

    assert caution(some([*range(6)])) is None
    assert caution(some([0, 1, 2])) == (
        "recipes are tried on 3 pictures: the interval is wide; give more pictures"
    )
    told = caution(some([0, 0, 0, 1, 1, 1, 0, 0]))
    assert told is not None
    assert told.startswith("only 2 of the 8 pictures that recipes are tried on differ much")


def test_a_brighter_or_shifted_frame_is_no_other_picture() -> None:
    frame = noise(3, (60, 80))
    brighter = np.clip(frame * 0.8 + 30, 0, 255).astype(np.uint8)
    assert distinct([frame, brighter, np.roll(frame, 1, 1), noise(4), frame]) == [0, 3]
    black = np.zeros((9, 9, 3), np.uint8)
    assert 0 in distinct([black, black])


def test_pictures_are_spread_over_the_folder(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(9):
        Image.fromarray(noise(index)).save(tmp_path / f"{index}.png")
    assert [one.name for one in read(tmp_path, 3, None, model)] == ["0.png", "4.png", "8.png"]
    assert len(read(tmp_path, 100, None, model)) == 9
    assert capsys.readouterr().err == ""
    (tmp_path / "4.png").write_bytes(b"no picture")
    assert [one.name for one in read(tmp_path, 3, None, model)] == ["0.png", "8.png"]
    assert "4.png" in capsys.readouterr().err
