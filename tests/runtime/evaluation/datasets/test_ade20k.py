"""ADE20K's class ids."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime.evaluation.datasets import open_dataset


@pytest.mark.parametrize("parent", ["", "ADEChallengeData2016"])
def test_one_object_for_each_class_that_is_there(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_], parent: str
) -> None:
    ids = np.zeros((6, 9), np.uint8)
    ids[square], ids[5, 0], ids[5, 8], ids[0, 8] = 150, 3, 3, 1
    for split, number in (("validation", 2), ("validation", 1), ("training", 1)):
        name = f"ADE_{split[:3]}_{number:08}"
        save(tmp_path / parent / f"images/{split}/{name}.jpg")
        save(tmp_path / parent / f"annotations/{split}/{name}.png", ids)
    dataset = open_dataset("ade20k", tmp_path)
    assert [annotated.name for annotated in dataset] == ["ADE_val_00000001", "ADE_val_00000002"]
    for annotated in dataset:
        assert annotated.image().shape == (6, 9, 3)
        found = annotated.objects()
        assert [(one.category, one.area, one.box) for one in found] == [
            (1, 1, (8, 0, 8, 0)),
            (3, 2, (0, 5, 8, 5)),  # two pieces, one object
            (150, 6, (2, 1, 4, 2)),
        ]
        np.testing.assert_array_equal(found[2].mask, square)
    (other,) = open_dataset("ade20k", tmp_path, "training")
    assert other.name == "ADE_tra_00000001"


def test_an_unlabelled_picture_has_no_objects(tmp_path: Path, save: Callable[..., Path]) -> None:
    save(tmp_path / "images/validation/a.jpg")
    save(tmp_path / "annotations/validation/a.png", np.zeros((6, 9), np.uint8))
    (annotated,) = open_dataset("ade20k", tmp_path)
    assert annotated.objects() == []
