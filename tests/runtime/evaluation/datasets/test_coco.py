"""COCO's instances and panoptic segments, tiny ones and, where they are at hand, a hundred real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_lengths

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.datasets import open_dataset
from structsam_runtime.evaluation.datasets.coco import Panoptic

REAL = Path(__file__).parents[4] / "../shared/data/coco-train"
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 90, "name": "toothbrush", "isthing": 1},
    {"id": 187, "name": "sky", "isthing": 0},
]
IMAGES = [
    {"id": 42, "file_name": "000000000042.jpg", "height": 6, "width": 9},
    {"id": 7, "file_name": "000000000007.jpg", "height": 6, "width": 9},
]


def write_instances(root: Path, save: Callable[..., Path], folder: str, **changes: Any) -> Path:
    ones = np.asfortranarray(np.ones((6, 9), np.uint8))
    crowd = run_lengths.encode(ones)
    annotations = [
        {
            "id": 1,
            "image_id": 42,
            "category_id": 90,
            "iscrowd": 0,
            "segmentation": [[2, 1, 5, 1, 5, 3, 2, 3]],
        },
        {"id": 2, "image_id": 42, "category_id": 1, "segmentation": [[8, 5, 9, 5, 9, 6, 8, 6]]},
        {
            "id": 3,
            "image_id": 42,
            "category_id": 1,
            "iscrowd": 1,
            "segmentation": {"size": [6, 9], "counts": crowd["counts"].decode()},
        },
    ]
    for image in IMAGES:
        save(root / folder / str(image["file_name"]))
    content = {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES} | changes
    path = root / "annotations/instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "images"])
def test_instances(
    tmp_path: Path,
    save: Callable[..., Path],
    square: NDArray[np.bool_],
    folder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_instances(tmp_path, save, folder)
    first, second = open_dataset("coco", tmp_path)
    assert (first.name, first.objects()) == ("000000000007", [])
    assert second.name == "000000000042"
    assert second.image().shape == (6, 9, 3)
    brush, corner, crowd = second.objects()
    np.testing.assert_array_equal(brush.mask, square)
    assert brush.mask.dtype == np.bool_
    assert [(found.category, found.crowd, found.box) for found in (brush, corner, crowd)] == [
        (90, False, (2, 1, 4, 2)),
        (1, False, (8, 5, 8, 5)),
        (1, True, (0, 0, 8, 5)),
    ]
    assert capsys.readouterr().out == ""


def test_instances_that_are_not_right_are_refused(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = write_instances(tmp_path, save, "val2017", images=[IMAGES[0] | {"height": 5}])
    (annotated,) = open_dataset("coco", tmp_path)
    with pytest.raises(UserError, match=r"42\.jpg has 9 x 6 pixels and its annotation has 9 x 5"):
        annotated.objects()
    write_instances(tmp_path, save, "val2017", images=[{"id": 42}])
    with pytest.raises(UserError, match=r"instances_val2017\.json is not in COCO's format: KeyError"):
        open_dataset("coco", tmp_path)
    path.write_text('{"images"')
    with pytest.raises(UserError, match=r"instances_val2017\.json cannot be read as JSON"):
        open_dataset("coco", tmp_path)


def colour(segment: int) -> list[int]:
    return [segment % 256, segment // 256 % 256, segment // 65536]


def write_panoptic(root: Path, save: Callable[..., Path], images: str, segments: str) -> None:
    """Sky, and in it things of six pixels, of one and of none, and a crowd."""
    ids = np.full((6, 9), 187_000)
    ids[1:3, 2:5], ids[5, 8], ids[4, 0] = 65536 * 3 + 256 * 2 + 1, 90, 256
    colours = np.array([[colour(int(segment)) for segment in row] for row in ids], np.uint8)
    for number in (7, 42):
        save(root / images / f"{number:012}.jpg")
        save(root / segments / f"{number:012}.png", colours)
    described = [(65536 * 3 + 256 * 2 + 1, 90, 0), (90, 1, 0), (256, 1, 1), (187_000, 187, 0), (4, 1, 0)]
    info = [{"id": a, "category_id": b, "iscrowd": c} for a, b, c in described]
    annotations = [
        {"image_id": number, "file_name": f"{number:012}.png", "segments_info": info} for number in (42, 7)
    ]
    content = {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))


@pytest.mark.parametrize("images", ["val2017", "images/val2017", "images"])
@pytest.mark.parametrize("segments", ["annotations/panoptic_val2017", "panoptic_val2017"])
def test_panoptic_things(
    tmp_path: Path, save: Callable[..., Path], square: NDArray[np.bool_], images: str, segments: str
) -> None:
    write_panoptic(tmp_path, save, images, segments)
    dataset = open_dataset("coco-panoptic", tmp_path, min_area=0)
    assert [annotated.name for annotated in dataset] == ["000000000007", "000000000042"]
    for annotated in dataset:
        assert annotated.image().shape == (6, 9, 3)
        thing, pixel, crowd, lost = annotated.objects()
        np.testing.assert_array_equal(thing.mask, square)
        assert [(found.category, found.crowd, found.box) for found in (thing, pixel, crowd, lost)] == [
            (90, False, (2, 1, 4, 2)),
            (1, False, (8, 5, 8, 5)),
            (1, True, (0, 4, 0, 4)),
            (1, False, None),
        ]


def test_panoptic_segments_below_32_times_32_pixels_are_left_out_by_default(
    tmp_path: Path, save: Callable[..., Path]
) -> None:
    write_panoptic(tmp_path, save, "images", "panoptic_val2017")
    dataset = open_dataset("coco-panoptic", tmp_path)
    assert dataset.min_area == 1024
    assert [[found.crowd for found in annotated.objects()] for annotated in dataset] == [[True], [True]]


def test_another_split_is_told(tmp_path: Path, save: Callable[..., Path]) -> None:
    write_panoptic(tmp_path, save, "images", "annotations/panoptic_val2017")
    with pytest.raises(UserError, match=r"panoptic_train2017\.json; found in .*: panoptic_val2017, panoptic"):
        open_dataset("coco-panoptic", tmp_path, "train2017")


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/coco-train")
def test_real_segments_are_those_that_coco_describes() -> None:
    """412 things of at least 32 x 32 pixels, which means their area and not the sides of their box."""
    described = json.loads((REAL / "annotations/panoptic_train2017.json").read_text())
    segments = {
        Path(drawn["file_name"]).stem: {s["id"]: s for s in drawn["segments_info"]}
        for drawn in described["annotations"]
    }
    dataset = open_dataset("coco-panoptic", REAL, "train2017")
    assert len({annotated.name for annotated in dataset}) == len(dataset) == 100
    prompts = 0
    for annotated in dataset:
        assert isinstance(annotated, Panoptic)
        ids = np.asarray(Image.open(annotated.segments)).astype(int) @ [1, 256, 65536]
        for found in annotated.objects():
            (segment,) = set(ids[found.mask].tolist())
            about = segments[annotated.name][segment]
            x, y, width, height = about["bbox"]
            assert found.box == (x, y, x + width - 1, y + height - 1)
            assert (found.area, found.category) == (about["area"], about["category_id"])
            assert found.crowd == bool(about["iscrowd"])
            prompts += not found.crowd
    assert prompts == 412


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/coco-train")
def test_real_pictures_have_the_size_of_their_masks() -> None:
    for annotated in open_dataset("coco-panoptic", REAL, "train2017").pictures[:5]:
        assert {found.mask.shape for found in annotated.objects()} <= {annotated.image().shape[:2]}


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path: Path, save: Callable[..., Path]) -> None:
    images = [
        {"id": number, "file_name": name, "height": 6, "width": 9}
        for number, name in enumerate(["a/1.jpg", "b/1.jpg", "b/2.jpg"], start=42)
    ]
    write_instances(tmp_path, save, "val2017", images=images)
    for image in images:
        save(tmp_path / "val2017" / str(image["file_name"]))
    dataset = open_dataset("coco", tmp_path)
    assert [one.name for one in dataset] == ["a/1.jpg", "b/1.jpg", "2"]
    assert [one.image().shape for one in dataset] == [(6, 9, 3)] * 3
    write_instances(tmp_path, save, "val2017", images=[images[0], images[0] | {"id": 7}])
    with pytest.raises(UserError, match=r"cannot open coco \(val2017\): it has a/1\.jpg twice; remove one"):
        open_dataset("coco", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1e9, 1, 5, 1, 5, 3]]}, "a polygon leaves its picture of 9 x 6 pixels"),
        ({"segmentation": {"size": [6, 9], "counts": [3, 4]}}, "run lengths cover 7 of 54 pixels"),
        ({"segmentation": 5}, "a segmentation is 5, expected"),
        ({"category_id": None, "segmentation": {}}, "run lengths have the size None"),
    ],
)
def test_an_annotation_that_would_harm_is_one_line(
    tmp_path: Path, save: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    whole = {"id": 1, "image_id": 42, "category_id": 90, "segmentation": [[2, 1, 5, 1, 5, 3]]}
    write_instances(tmp_path, save, "val2017", annotations=[whole | change])
    with pytest.raises(UserError, match=message):
        open_dataset("coco", tmp_path).pictures[1].objects()
    lacking = {key: value for key, value in whole.items() if key != "segmentation"}
    write_instances(tmp_path, save, "val2017", annotations=[lacking])
    with pytest.raises(UserError, match="the annotation of 000000000042 cannot be read: KeyError"):
        open_dataset("coco", tmp_path).pictures[1].objects()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        json.dumps({"images": [5], "annotations": [], "categories": []}),
        json.dumps({"images": [{"id": 1, "file_name": 7}], "annotations": [], "categories": []}),
        json.dumps({"images": 7, "annotations": 7, "categories": 7}),
        json.dumps({"images": [{"id": [], "file_name": "a.jpg"}], "annotations": [], "categories": []}),
    ],
    ids=lambda content: str(content)[:30],
)
@pytest.mark.parametrize("name", ["coco", "coco-panoptic"])
def test_whatever_an_index_holds_is_one_line(
    tmp_path: Path, save: Callable[..., Path], name: str, content: str
) -> None:
    write_instances(tmp_path, save, "val2017")
    (tmp_path / "annotations/panoptic_val2017").mkdir()
    for kind in ("instances", "panoptic"):
        (tmp_path / f"annotations/{kind}_val2017.json").write_text(content)
    try:
        dataset = open_dataset(name, tmp_path)
    except UserError:
        return
    assert not len(dataset)
