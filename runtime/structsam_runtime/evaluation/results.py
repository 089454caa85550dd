"""What an evaluation leaves on disk: one folder a dataset, one file a model, one JSON line a picture.

    RESULTS/coco-panoptic-val2017/run.json                 what was evaluated, on what, where
    RESULTS/coco-panoptic-val2017/truth.jsonl              the objects of every picture
    RESULTS/coco-panoptic-val2017/structsam-r55.jsonl      what one model made of them

A run that was stopped goes on where it was; a model or a rate that is added later finds the others done.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import UserError
from ..files import whole_file

RUN, TRUTH = "run.json", "truth.jsonl"
UNMERGED = "unmerged"
"""The model that others must agree with."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrueObject:
    """One annotated object.

    Attributes:
        category: the dataset's number of its class.
        mask: compressed run lengths, as pycocotools writes them.
        crowd: a group drawn as one; not prompted with, and nothing that has to be found.
        empty: it has no pixel, so that no box could prompt for it.
    """

    category: int
    mask: str
    crowd: bool
    empty: bool

    @property
    def prompted(self) -> bool:
        """Whether its box is a prompt."""
        return not self.crowd and not self.empty


@dataclass(frozen=True)
class FoundObject:
    """What a model made of one box prompt.

    Attributes:
        mask: compressed run lengths.
        score: the IoU that the decoder predicts for its mask.
        iou, boundary_iou, dice: with the annotation, 0..1.
        agreement: IoU with the mask of the unmerged model, 0..1.
    """

    mask: str
    score: float
    iou: float
    boundary_iou: float
    dice: float
    agreement: float


@dataclass(frozen=True)
class TrueObjects:
    """A picture's annotation.

    Attributes:
        picture: its name.
        size: height and width of the masks in pixels; None where there is none.
        objects: all that are annotated.
    """

    picture: str
    size: tuple[int, int] | None
    objects: tuple[TrueObject, ...]

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "TrueObjects":
        """Of a line of `truth.jsonl`."""
        size = None if line["size"] is None else (line["size"][0], line["size"][1])
        return cls(line["picture"], size, tuple(TrueObject(**one) for one in line["objects"]))


@dataclass(frozen=True)
class FoundObjects:
    """What a model made of a picture.

    Attributes:
        picture: its name.
        seconds: of the encoder, picture preparation included; None where there is no prompt, and it did not
            run.
        peak_bytes: largest resident size of the process meanwhile; None where it cannot be told.
        objects: of the annotated objects that are prompted with, in their order.
    """

    picture: str
    seconds: float | None
    peak_bytes: int | None
    objects: tuple[FoundObject, ...]

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "FoundObjects":
        """Of a line of a model's file."""
        objects = tuple(FoundObject(**one) for one in line["objects"])
        return cls(line["picture"], line["seconds"], line["peak_bytes"], objects)


@dataclass(frozen=True)
class Results:
    """The results on one dataset.

    Args:
        folder: of this dataset. The folders beside it are of other datasets, and share its tables.
    """

    folder: Path

    def begin(
        self, pictures: Collection[str], what: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Note what is evaluated, before anything is.

        Args:
            pictures: names of the dataset's.
            what: must be the same in all runs whose results share tables: weights, machine.
            models: facts of each model by its name; the same name must have the same facts.

        Raises:
            UserError: there are results of something else, or the folder cannot be written.
        """
        begun = {path.parent: Results(path.parent).run() for path in self.folder.parent.glob(f"*/{RUN}")}
        for folder, run in sorted(begun.items()):
            _require_equal(folder, "", run["what"], what)
            for name in run["models"].keys() & models.keys():
                _require_equal(folder, f" of {name}", run["models"][name], models[name])
        if strange := sorted(self.truth().keys() - set(pictures)):
            raise UserError(
                f"{self.folder} has results of pictures that this dataset has not, such as {strange[0]}; "
                "choose another --output"
            )
        known = {**begun.get(self.folder, {"models": {}})["models"], **models}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror}") from error
        with whole_file(self.folder / RUN) as part:
            part.write_text(json.dumps({"what": what, "models": known}, indent=2) + "\n", encoding="utf-8")

    def run(self) -> dict[str, Any]:
        """What was evaluated: `what` and `models`, as `begin` was told.

        Raises:
            UserError: the file is missing or broken.
        """
        path = self.folder / RUN
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}; choose another --output") from error
        return content

    def truth(self) -> dict[str, TrueObjects]:
        """Annotations by picture."""
        return {line.picture: line for line in _lines(self.folder / TRUTH, TrueObjects.from_json)}

    def found(self, model: str) -> dict[str, FoundObjects]:
        """What a model made of each picture, by picture."""
        path = self.folder / f"{model}.jsonl"
        return {line.picture: line for line in _lines(path, FoundObjects.from_json)}

    def add_truth(self, truth: TrueObjects) -> None:
        """Append an annotation."""
        _append(self.folder / TRUTH, asdict(truth))

    def add(self, model: str, found: FoundObjects) -> None:
        """Append what a model made of a picture."""
        _append(self.folder / f"{model}.jsonl", asdict(found))


def _require_equal(folder: Path, owner: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse the first fact that has changed."""
    for name in now:
        if before.get(name) != now[name]:
            raise UserError(
                f"{folder} has results with the {name}{owner} {before.get(name)}, and this run has "
                f"{now[name]}; choose another --output"
            )


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """A whole line, behind the last whole line: what a stopped run left of one is cut off."""
    try:
        with path.open("a+b") as file:
            file.truncate(_end(file))
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _end(file: BinaryIO) -> int:
    """Where the last whole line of a file ends. One that ends well is not read for it: it may be large."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _lines(path: Path, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """The whole lines of a file; none if there is no file."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            yield read(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"line {number} of {path} is broken; remove it and run again") from error
