"""The datasets by name."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...errors import UserError
from .ade20k import read_ade20k
from .base import Annotated
from .cityscapes import read_cityscapes
from .coco import read_instances, read_panoptic
from .inbreast import read_inbreast
from .labels import read_held_out, read_labels
from .pairs import COIFT, DIS5K, FOLDER, HRSOD, THINOBJECT5K, read_pairs

WHOLE = ("all",)  # of a dataset that has no splits


@dataclass(frozen=True)
class Source:
    """How one dataset is read."""

    read: Callable[[Path, str], list[Annotated]]  # root, split
    splits: tuple[str, ...]  # the usual one first
    min_area: int = 0  # pixels


DATASETS = {
    "dis5k": Source(
        partial(read_pairs, layouts=DIS5K, parents=("DIS5K",)),
        ("DIS-VD", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4", "DIS-TR"),
    ),
    "thinobject5k": Source(
        partial(
            read_pairs,
            layouts=THINOBJECT5K,
            parents=("ThinObject5K", "thin_object_detection/ThinObject5K"),
        ),
        ("test", "val", "train"),
    ),
    "coift": Source(
        partial(read_pairs, layouts=COIFT, parents=("COIFT", "thin_object_detection/COIFT")), WHOLE
    ),
    "hrsod": Source(
        partial(read_pairs, layouts=HRSOD, parents=("HRSOD", "thin_object_detection/HRSOD")), WHOLE
    ),
    "coco": Source(read_instances, ("val2017", "train2017")),
    # 32 * 32 pixels is where COCO draws the line between small and medium objects.
    "coco-panoptic": Source(read_panoptic, ("val2017", "train2017"), min_area=32 * 32),
    "cityscapes": Source(read_cityscapes, ("val", "train")),
    "ade20k": Source(read_ade20k, ("validation", "training")),
    "inbreast": Source(read_inbreast, WHOLE),
    "folder": Source(partial(read_pairs, layouts=FOLDER), WHOLE),
    "labels": Source(read_labels, WHOLE),
    "held-out": Source(read_held_out, ("photographs", "salient", "thin", "drawn")),
}


@dataclass(frozen=True)
class Dataset:
    """The pictures of one split. Walking over it reads nothing; each picture reads itself when asked."""

    name: str
    split: str
    min_area: int  # pixels: smaller objects are left out
    pictures: tuple[Annotated, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Annotated]:
        return iter(self.pictures)


def open_dataset(name: str, root: Path, split: str | None = None, min_area: int | None = None) -> Dataset:
    """A dataset in the layout in which it is distributed.

    Args:
        name: a key of ``DATASETS``.
        root: the folder that it was unpacked to.
        split: by default the first of the dataset's.
        min_area: pixels; smaller objects are left out. By default nothing is, except from coco-panoptic what
            has less than 32 * 32.

    Raises:
        UserError: there is no such dataset or split, the folder does not hold it, or a package that reads it
            is not installed.
    """
    if name not in DATASETS:
        raise UserError(f"no dataset {name}; expected one of {', '.join(DATASETS)}")
    family = DATASETS[name]
    if split is not None and split not in family.splits:
        raise UserError(f"{name} has no split {split}; expected one of {', '.join(family.splits)}")
    split = split if split is not None else family.splits[0]
    min_area = min_area if min_area is not None else family.min_area
    try:
        pictures = family.read(root, split)
    except Exception as error:  # what annotation files hold has no bounds
        reason = error if isinstance(error, UserError) else repr(error)
        raise UserError(f"cannot open {name} ({split}): {reason}") from error
    twice = [picture for picture, count in Counter(found.name for found in pictures).items() if count > 1]
    if twice:
        raise UserError(f"cannot open {name} ({split}): it has {twice[0]} twice; remove one")
    return Dataset(name, split, min_area, tuple(replace(found, min_area=min_area) for found in pictures))
