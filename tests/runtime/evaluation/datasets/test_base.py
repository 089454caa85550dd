"""Boxes of masks, and what a dataset leaves out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import DATASETS, Annotated, Box, Object, box_of, open_dataset


def slow_box(mask: NDArray[np.bool_]) -> Box | None:
    places = [(x, y) for y, row in enumerate(mask) for x, inside in enumerate(row) if inside]
    if not places:
        return None
    xs, ys = [x for x, _ in places], [y for _, y in places]
    return min(xs), min(ys), max(xs), max(ys)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_box_holds_every_pixel_and_touches_four(mask: NDArray[np.bool_]) -> None:
    assert box_of(mask) == slow_box(mask)


def test_box_of_masks_that_are_easy_to_get_wrong(mask: NDArray[np.bool_]) -> None:
    found = Object(mask)
    assert found.box == slow_box(mask)
    assert found.area == sum(map(sum, mask.tolist()))
    assert found.box is None or all(type(value) is int for value in found.box)


def test_corners_are_pixels_of_the_mask() -> None:
    mask = np.zeros((5, 7), np.bool_)
    assert box_of(mask) is None
    mask[3, 6] = True
    assert box_of(mask) == (6, 3, 6, 3)
    mask[:] = True
    assert box_of(mask) == (0, 0, 6, 4)


@dataclass(frozen=True, kw_only=True)
class Drawn(Annotated):
    """A picture with objects of known areas."""

    areas: tuple[int, ...]

    def _decode(self) -> list[Object]:
        masks = [np.arange(20).reshape(4, 5) < area for area in self.areas]
        return [*map(Object, masks), Object(masks[0], crowd=True)]


@pytest.mark.parametrize(("min_area", "kept"), [(0, [0, 3, 4]), (1, [3, 4]), (4, [4]), (5, [])])
def test_small_objects_are_left_out_and_crowds_are_not(min_area: int, kept: list[int]) -> None:
    objects = Drawn(name="a", picture=Path("a"), areas=(0, 3, 4), min_area=min_area).objects()
    assert [found.area for found in objects if not found.crowd] == kept
    assert sum(found.crowd for found in objects) == 1


def test_an_unknown_dataset_or_split_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset sa1b; expected one of dis5k, thinobject5k"):
        open_dataset("sa1b", tmp_path)
    with pytest.raises(UserError, match="coco has no split val; expected one of val2017, train2017"):
        open_dataset("coco", tmp_path, "val")


@pytest.mark.parametrize("name", DATASETS)
def test_a_wrong_folder_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    lost = tmp_path / "nowhere"
    with pytest.raises(UserError, match=rf"cannot open {name} .*no folder {lost}"):
        open_dataset(name, lost)
    with pytest.raises(UserError, match=rf"cannot open {name} .*looked in {tmp_path}.*found in .*: nothing"):
        open_dataset(name, tmp_path)
    for number in range(10):
        (tmp_path / f"entry{number}").touch()
    with pytest.raises(UserError, match=r"entry0, .*entry7 and 2 more$") as told:
        open_dataset(name, tmp_path)
    assert "\n" not in str(told.value)


def test_a_dataset_tells_what_was_opened(tmp_path: Path, save: Callable[..., Path]) -> None:
    for name in ("b", "a"):
        save(tmp_path / "images" / f"{name}.png")
        save(tmp_path / "masks" / f"{name}.png", np.zeros((6, 9), np.uint8))
    dataset = open_dataset("folder", tmp_path)
    assert (dataset.name, dataset.split, dataset.min_area, len(dataset)) == ("folder", "all", 0, 2)
    assert [annotated.name for annotated in dataset] == ["a", "b"]
    assert [annotated.name for annotated in dataset] == ["a", "b"]  # a second walk starts anew
    assert [len(annotated.objects()) for annotated in dataset] == [1, 1]  # empty, and there to be counted
    assert [annotated.objects() for annotated in open_dataset("folder", tmp_path, min_area=1)] == [[], []]
