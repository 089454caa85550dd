"""One mask for each picture: the layouts of DIS5K, ThinObject-5K, COIFT, HRSOD and of one's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import open_dataset

LAYOUTS = [
    ("dis5k", None, "DIS-VD/im", "DIS-VD/gt"),
    ("dis5k", "DIS-TE4", "DIS5K/DIS-TE4/im", "DIS5K/DIS-TE4/gt"),
    ("thinobject5k", None, "images_test", "masks_test"),
    (
        "thinobject5k",
        "train",
        "thin_object_detection/ThinObject5K/images_train",
        "thin_object_detection/ThinObject5K/masks_train",
    ),
    ("coift", None, "images", "masks"),
    ("coift", None, "thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks"),
    ("hrsod", None, "HRSOD/images", "HRSOD/masks_max255"),
    ("hrsod", None, "thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255"),
    ("folder", None, "images", "masks"),
]


def write(
    root: Path, save: Callable[..., Path], mask: NDArray[np.bool_], images: str, masks: str, name: str
) -> None:
    save(root / images / f"{name}.jpg")
    save(root / masks / f"{name}.png", mask.astype(np.uint8) * 255)


@pytest.mark.parametrize(("name", "split", "images", "masks"), LAYOUTS)
def test_the_layouts_that_datasets_are_distributed_in(
    tmp_path: Path,
    save: Callable[..., Path],
    square: NDArray[np.bool_],
    name: str,
    split: str | None,
    images: str,
    masks: str,
) -> None:
    for stem in ("b", "a.1"):
        write(tmp_path, save, square, images, masks, stem)
    (tmp_path / images / "._b.jpg").touch()
    (tmp_path / images / "Thumbs.db").touch()
    dataset = open_dataset(name, tmp_path, split)
    assert [annotated.name for annotated in dataset] == ["a.1", "b"]
    for annotated in dataset:
        assert annotated.picture == tmp_path / images / f"{annotated.name}.jpg"
        assert annotated.image().shape == (6, 9, 3)
        (found,) = annotated.objects()
        np.testing.assert_array_equal(found.mask, square)
        assert (found.box, found.category, found.crowd) == ((2, 1, 4, 2), 1, False)


def test_thinobject5k_is_split_by_its_lists(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_]
) -> None:
    root = tmp_path / "ThinObject5K"
    for stem in ("a.1", "b", "c"):
        write(root, save, square, "images", "masks", stem)
    (root / "list").mkdir()
    (root / "list/test.txt").write_text("c.jpg\r\na.1.jpg\n\n")
    (root / "list/train.txt").write_text("d.jpg\n")
    assert [annotated.name for annotated in open_dataset("thinobject5k", tmp_path)] == ["a.1", "c"]
    with pytest.raises(UserError, match=r"1 of 1 names are not in .*images, such as d; found a\.1\.jpg"):
        open_dataset("thinobject5k", tmp_path, "train")
    with pytest.raises(UserError, match=r"list/val\.txt.*found in .*list: test\.txt, train\.txt"):
        open_dataset("thinobject5k", tmp_path, "val")


def test_masks_that_are_easy_to_get_wrong_come_back(
    tmp_path: Path, save: Callable[..., Path], mask: NDArray[np.bool_]
) -> None:
    write(tmp_path, save, mask, "images", "masks", "a")
    ((found,),) = [annotated.objects() for annotated in open_dataset("folder", tmp_path)]
    np.testing.assert_array_equal(found.mask, mask)
    assert (found.box is None) == (not mask.any())


def test_files_that_do_not_fit_together_are_refused(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_]
) -> None:
    write(tmp_path, save, square, "images", "masks", "a")
    save(tmp_path / "masks/spare.png", square.astype(np.uint8) * 255)
    assert len(open_dataset("folder", tmp_path)) == 1  # a mask without a picture does no harm
    save(tmp_path / "images/b.jpg")
    with pytest.raises(UserError, match=r"1 of 2 names are not in .*masks, such as b; found a\.png, spare"):
        open_dataset("folder", tmp_path)
    save(tmp_path / "images/a.png")
    with pytest.raises(UserError, match=r"images has a\.jpg and a\.png; expected one of a name"):
        open_dataset("folder", tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path: Path, save: Callable[..., Path]) -> None:
    save(tmp_path / "masks/a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.txt").touch()
    with pytest.raises(UserError, match=r"no pictures in .*images; found a\.txt"):
        open_dataset("folder", tmp_path)


def test_a_broken_picture_or_a_mask_of_another_size_is_refused_when_it_is_read(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_]
) -> None:
    write(tmp_path, save, square[:, :-1], "images", "masks", "a")
    (annotated,) = open_dataset("folder", tmp_path)
    with pytest.raises(UserError, match=r"a\.jpg has 9 x 6 pixels and .*a\.png has 8 x 6"):
        annotated.objects()
    annotated.picture.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"a\.jpg is not a picture"):
        annotated.image()
