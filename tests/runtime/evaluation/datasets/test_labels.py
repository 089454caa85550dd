"""Objects by their numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import open_dataset


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_object_for_each_number(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_], dtype: type
) -> None:
    labels = np.zeros((6, 9), dtype)
    labels[square], labels[5, 0], labels[5, 8] = 200, 3, 3
    for name in ("b", "a"):
        save(tmp_path / f"images/{name}.jpg")
        save(tmp_path / f"labels/{name}.png", labels)
    dataset = open_dataset("labels", tmp_path)
    assert [annotated.name for annotated in dataset] == ["a", "b"]
    for annotated in dataset:
        small, large = annotated.objects()
        assert (small.category, small.area, small.box) == (1, 2, (0, 5, 8, 5))  # two pieces, one object
        np.testing.assert_array_equal(large.mask, square)


def test_a_split_of_what_is_held_out_is_a_folder_of_labels(tmp_path: Path, save: Callable[..., Path]) -> None:
    labels = np.zeros((10, 50), np.uint8)
    labels[2, :40] = 7
    save(tmp_path / "thin/images/a.png", np.zeros((10, 50, 3), np.uint8))
    save(tmp_path / "thin/labels/a.png", labels)
    (annotated,) = open_dataset("held-out", tmp_path, "thin")
    (line,) = annotated.objects()
    assert line.area == 40
    with pytest.raises(UserError, match="photographs"):
        open_dataset("held-out", tmp_path)


def test_labels_of_another_size_are_refused(tmp_path: Path, save: Callable[..., Path]) -> None:
    save(tmp_path / "images/a.jpg")
    save(tmp_path / "labels/a.png", np.ones((9, 6), np.uint8))
    (annotated,) = open_dataset("labels", tmp_path)
    with pytest.raises(UserError, match="expected the same"):
        annotated.objects()
