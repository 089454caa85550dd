"""Cityscapes' instance ids."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import open_dataset


def write(
    root: Path, save: Callable[..., Path], ids: NDArray[np.uint16], city: str, number: int
) -> tuple[Path, Path]:
    name = f"{city}_000000_{number:06}"
    return (
        save(root / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png"),
        save(root / f"gtFine/val/{city}/{name}_gtFine_instanceIds.png", ids),
    )


def test_instances_of_the_eight_classes_and_their_groups(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_]
) -> None:
    ids = np.full((6, 9), 7, np.uint16)  # road
    ids[square] = 26_000  # the first car
    ids[5, 8], ids[0, 0], ids[0, 8], ids[4] = 26_012, 24, 29_000, 33_001  # car, people, caravan, bicycle
    ids[5, 0] = 1  # ego vehicle
    _, annotation = write(tmp_path, save, ids, "munster", 5)
    annotation.with_name("munster_000000_000005_gtFine_labelIds.png").touch()
    write(tmp_path, save, ids, "frankfurt", 294)
    dataset = open_dataset("cityscapes", tmp_path)
    assert [annotated.name for annotated in dataset] == ["frankfurt_000000_000294", "munster_000000_000005"]
    for annotated in dataset:
        assert annotated.image().shape == (6, 9, 3)
        found = annotated.objects()
        assert [(one.category, one.crowd, one.box) for one in found] == [
            (24, True, (0, 0, 0, 0)),
            (26, False, (2, 1, 4, 2)),
            (26, False, (8, 5, 8, 5)),
            (33, False, (0, 4, 8, 4)),
        ]
        np.testing.assert_array_equal(found[1].mask, square)


def test_a_street_without_instances_has_no_objects(tmp_path: Path, save: Callable[..., Path]) -> None:
    write(tmp_path, save, np.full((6, 9), 7, np.uint16), "lindau", 0)
    (annotated,) = open_dataset("cityscapes", tmp_path)
    assert annotated.objects() == []


def test_folders_without_ids_and_pictures_that_are_lost_are_told(
    tmp_path: Path, save: Callable[..., Path]
) -> None:
    picture, annotation = write(tmp_path, save, np.full((6, 9), 26_000, np.uint16), "lindau", 0)
    (annotated,) = open_dataset("cityscapes", tmp_path)
    picture.unlink()
    for read in (annotated.image, annotated.objects):
        with pytest.raises(UserError, match=r"no file .*lindau_000000_000000_leftImg8bit\.png"):
            read()
    annotation.unlink()
    with pytest.raises(UserError, match=r"no CITY/\*_gtFine_instanceIds\.png in .*val"):
        open_dataset("cityscapes", tmp_path)
