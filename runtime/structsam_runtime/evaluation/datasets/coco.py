"""COCO: things in photographs, each with a mask.

Instances (``coco``), splits val2017 and train2017; polygons and run lengths::

    coco/
        annotations/instances_val2017.json
        val2017/*.jpg                               or images/val2017/, or images/

Panoptic (``coco-panoptic``), the same splits; the id of a segment is R + 256 G + 65536 B::

    coco/
        annotations/panoptic_val2017.json
        annotations/panoptic_val2017/*.png          or panoptic_val2017/
        val2017/*.jpg                               or images/val2017/, or images/

Of the panoptic segments the things are read ("isthing"): stuff such as sky has no extent to put a box around.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from .base import Annotated, Object
from .files import check_size, locate, optional, read_json, read_rgb_ids
from .outlines import mask_of


@dataclass(frozen=True, kw_only=True)
class Instances(Annotated):
    """A picture whose objects are polygons or run lengths in one JSON file."""

    index: Any  # pycocotools.coco.COCO, shared by all pictures
    image_id: int

    def _decode(self) -> list[Object]:
        described = self.index.imgs[self.image_id]
        height, width = described["height"], described["width"]
        check_size(self.picture, "its annotation", (height, width))
        return [
            Object(
                mask_of(drawn["segmentation"], height, width),
                drawn["category_id"],
                bool(drawn.get("iscrowd")),
            )
            for drawn in self.index.imgToAnns[self.image_id]
        ]


@dataclass(frozen=True, kw_only=True)
class Panoptic(Annotated):
    """A picture whose objects are the colours of a second one."""

    segments: Path
    things: tuple[tuple[int, int, bool], ...]  # (segment id, category, crowd)

    def _decode(self) -> list[Object]:
        ids = read_rgb_ids(self.segments)
        check_size(self.picture, self.segments, ids.shape)
        return [Object(ids == segment, category, crowd) for segment, category, crowd in self.things]


def read_instances(root: Path, split: str) -> list[Annotated]:
    """Every picture of the split, in the order of their numbers, also those without an object.

    Raises:
        UserError: the layout is not there, the JSON file is broken, or pycocotools is not installed.
    """
    coco = optional("pycocotools.coco")
    (path,) = locate(root, [(f"annotations/instances_{split}.json",)])
    folder = _pictures(root, split)
    index = coco.COCO()
    index.dataset = read_json(path, ["images", "annotations", "categories"])
    with contextlib.redirect_stdout(io.StringIO()), _complete(path):  # it reports its progress with print
        index.createIndex()
    with _complete(path):
        files = sorted((number, about["file_name"]) for number, about in index.imgs.items())
        names = _names([file for _, file in files])
        return [
            Instances(name=names[file], picture=folder / file, index=index, image_id=number)
            for number, file in files
        ]


def read_panoptic(root: Path, split: str) -> list[Annotated]:
    """Every annotated picture of the split, in the order of their numbers, also those without a thing.

    Raises:
        UserError: the layout is not there, or the JSON file is broken.
    """
    (path,) = locate(root, [(f"annotations/panoptic_{split}.json",)])
    (segments,) = locate(root, [(f"annotations/panoptic_{split}",), (f"panoptic_{split}",)])
    folder = _pictures(root, split)
    content = read_json(path, ["images", "annotations", "categories"])
    with _complete(path):
        files = {about["id"]: about["file_name"] for about in content["images"]}
        things = {about["id"] for about in content["categories"] if about["isthing"]}
        names = _names([drawn["file_name"] for drawn in content["annotations"]])
        return [
            Panoptic(
                name=names[drawn["file_name"]],
                picture=folder / files[drawn["image_id"]],
                segments=segments / drawn["file_name"],
                things=tuple(
                    (segment["id"], segment["category_id"], bool(segment["iscrowd"]))
                    for segment in drawn["segments_info"]
                    if segment["category_id"] in things
                ),
            )
            for drawn in sorted(content["annotations"], key=lambda drawn: int(drawn["image_id"]))
        ]


def _names(files: Sequence[str]) -> dict[str, str]:
    """What pictures are called: by the stem of the file or, where folders share one, by its path."""
    stems = Counter(Path(file).stem for file in files)
    return {file: Path(file).stem if stems[Path(file).stem] == 1 else file for file in files}


def _pictures(root: Path, split: str) -> Path:
    (folder,) = locate(root, [(split,), (f"images/{split}",), ("images",)])
    return folder


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not in COCO's format: {error!r}") from error
