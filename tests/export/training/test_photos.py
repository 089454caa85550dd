"""Reading COCO's panoptic layout and label maps."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structsam_export.training.photos import (
    HELD_OUT,
    SHARES,
    Photos,
    read_data,
    read_maps,
    read_photos,
)
from structsam_runtime.errors import UserError

DATA = Path(__file__).parents[4] / "shared" / "data"


def test_the_last_annotated_pictures_are_held_out(photos: Photos) -> None:
    assert [photo.name for photo in photos.train] == ["100", "101", "102", "103"]
    assert [photo.name for photo in photos.held_out] == [str(id) for id in range(104, 104 + HELD_OUT)]
    assert [photo.name for photo in photos.plain] == ["124", "125"]
    assert len(photos.textures) == 6


def test_segments_are_read_and_crowds_are_not(photos: Photos) -> None:
    photo = photos.train[0]
    labels = np.asarray(photo.labels)
    assert photo.things == (1,)
    assert (labels[10:50, 5:45] == 1).all()
    assert (labels[:8] == 2).all()
    assert (labels[55:] == 0).all()


def test_a_folder_without_annotations_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotations/panoptic_\*\.json"):
        read_photos(tmp_path)


def test_what_a_source_is_follows_from_its_kind(every: Photos) -> None:
    """And the last two of its pictures are held out."""
    found = {photo.source: photo for photo in every.train}
    assert {name: (photo.union, photo.thin) for name, photo in found.items()} == {
        "coco-train": (False, False),
        "coco_minis": (False, False),
        "duts_tr": (True, False),
        "powerlines_pld": (False, True),
    }
    assert found["duts_tr"].things == (1, 2)
    for source in ("coco_minis", "duts_tr", "powerlines_pld"):
        members = [
            [photo.name for photo in side if photo.source == source] for side in (every.train, every.held_out)
        ]
        assert members == [[f"{source}_{i}" for i in (0, 1)], [f"{source}_{i}" for i in (2, 3)]]


def test_sources_are_picked_by_their_share(every: Photos) -> None:
    rng = np.random.default_rng(0)
    count = 4000
    seen = Counter(every.pick(rng).source for _ in range(count))
    whole = sum(SHARES[source] for source in every.sources)
    for source in every.sources:
        expected = SHARES[source] / whole
        assert abs(seen[source] / count - expected) < 5 * (expected / count) ** 0.5
    assert set(seen) == set(every.sources)


def edited(folder: Path, name: str, labels: np.ndarray | None) -> Path:
    """A folder of label maps with one picture of 8 x 8."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "sources.json").write_text(json.dumps({"duts_tr": {"kind": ""}, "new": {"kind": ""}}))
    Image.new("RGB", (8, 8)).save(folder / "images" / f"{name}.png")
    if labels is not None:
        Image.fromarray(labels).save(folder / "labels" / f"{name}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "labels", "told"),
    [
        ("duts_tr_1", None, "has no image, or no label map, of duts_tr_1"),
        (
            "new_1",
            np.zeros((8, 8), np.uint8),
            "of no source that training knows; expected one of coco-train, ",
        ),
        ("duts_tr_1", np.zeros((8, 9), np.uint8), r"is L \(9, 8\); expected labels 0..255, \(8, 8\)"),
        ("duts_tr_1", np.zeros((8, 8, 3), np.uint8), r"is RGB \(8, 8\); expected labels"),
    ],
)
def test_label_maps_that_are_none(tmp_path: Path, name: str, labels: np.ndarray | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_maps(edited(tmp_path, name, labels))


def test_data_without_label_maps(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "coco-train").symlink_to(folder)
    with pytest.raises(
        UserError, match=r"sources\.json; give --data a folder that holds coco-train and train"
    ):
        read_data(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_no_picture_of_coco_is_in_two_sources() -> None:
    """What is held out of one would be trained on with the other."""
    ids = Counter(
        int(path.stem.split("_")[-1])
        for path in [*DATA.glob("coco-train/images/*"), *DATA.glob("train/images/coco_*")]
    )
    assert ids
    assert max(ids.values()) == 1
