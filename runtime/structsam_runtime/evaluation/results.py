"""Results of an evaluation on disk: one folder per dataset, one file per model, one JSON line per picture.

    RESULTS/coco-panoptic-val2017/run.json                 models, weights and machine
    RESULTS/coco-panoptic-val2017/truth.jsonl              the annotated objects of every picture
    RESULTS/coco-panoptic-val2017/structsam-r55.jsonl      the masks and metrics of one model

A rerun continues a stopped run; models and rates can be added later without repeating the others.
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
"""Name of the unmerged model, the reference of the agreement."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrueObject:
    """One annotated object.

    Attributes:
        category: the dataset's id of its class.
        mask: compressed run lengths of pycocotools.
        crowd: a group annotated as one object; it is not used as a prompt, and need not be found.
        empty: the mask has no pixels, so there is no box for a prompt.
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
    """The result of a model for one box prompt.

    Attributes:
        mask: compressed run lengths.
        score: the decoder's predicted IoU of the mask.
        iou, boundary_iou, dice: metrics with the annotation as reference, in [0, 1].
        agreement: IoU with the mask of the unmerged model, in [0, 1].
    """

    mask: str
    score: float
    iou: float
    boundary_iou: float
    dice: float
    agreement: float


@dataclass(frozen=True)
class TrueObjects:
    """The annotation of a picture.

    Attributes:
        picture: name of the picture.
        size: height and width of the masks in pixels; None without objects.
        objects: all annotated objects.
    """

    picture: str
    size: tuple[int, int] | None
    objects: tuple[TrueObject, ...]

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "TrueObjects":
        """From a line of `truth.jsonl`."""
        size = None if line["size"] is None else (line["size"][0], line["size"][1])
        return cls(line["picture"], size, tuple(TrueObject(**one) for one in line["objects"]))


@dataclass(frozen=True)
class FoundObjects:
    """The results of a model on a picture.

    Attributes:
        picture: name of the picture.
        seconds: time of the encoder in seconds, picture preparation included; None if the picture has no
            prompt and the encoder did not run.
        peak_bytes: peak resident size of the process during that time; None if it cannot be measured.
        objects: one result for each prompted object, in the order of the annotation.
    """

    picture: str
    seconds: float | None
    peak_bytes: int | None
    objects: tuple[FoundObject, ...]

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "FoundObjects":
        """From a line of a model's file."""
        objects = tuple(FoundObject(**one) for one in line["objects"])
        return cls(line["picture"], line["seconds"], line["peak_bytes"], objects)


@dataclass(frozen=True)
class Results:
    """The results on one dataset.

    Args:
        folder: folder of this dataset. The folders beside it belong to other datasets of the same tables.
    """

    folder: Path

    def begin(
        self, pictures: Collection[str], what: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Write `run.json` before the evaluation starts, and check it against existing results.

        Args:
            pictures: names of all pictures of the dataset.
            what: facts that must be equal in all runs that share tables: weights, machine.
            models: facts of each model by its name; the same name must have the same facts.

        Raises:
            UserError: there are results with other facts or pictures, or the folder cannot be written.
        """
        begun = {path.parent: Results(path.parent).run() for path in self.folder.parent.glob(f"*/{RUN}")}
        for folder, run in sorted(begun.items()):
            _require_equal(folder, "", run["what"], what)
            for name in run["models"].keys() & models.keys():
                _require_equal(folder, f" of {name}", run["models"][name], models[name])
        if strange := sorted(self.truth().keys() - set(pictures)):
            raise UserError(
                f"{self.folder} has results of pictures that are not in this dataset, such as {strange[0]}; "
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
        """The content of `run.json`: `what` and `models`, the arguments of `begin`.

        Raises:
            UserError: the file is missing or not valid JSON.
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
        """The results of a model, by picture."""
        path = self.folder / f"{model}.jsonl"
        return {line.picture: line for line in _lines(path, FoundObjects.from_json)}

    def add_truth(self, truth: TrueObjects) -> None:
        """Append an annotation."""
        _append(self.folder / TRUTH, asdict(truth))

    def add(self, model: str, found: FoundObjects) -> None:
        """Append the results of a model on a picture."""
        _append(self.folder / f"{model}.jsonl", asdict(found))


def _require_equal(folder: Path, owner: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError for the first fact that has changed."""
    for name in now:
        if before.get(name) != now[name]:
            raise UserError(
                f"{folder} has results with the {name}{owner} {before.get(name)}, and this run has "
                f"{now[name]}; choose another --output"
            )


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line after the last complete line; an incomplete line of a stopped run is removed."""
    try:
        with path.open("a+b") as file:
            file.truncate(_end(file))
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _end(file: BinaryIO) -> int:
    """End of the last complete line of a file. The file, which may be large, is read only if it is needed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _lines(path: Path, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """The complete lines of a file; none if there is no file."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            yield read(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"line {number} of {path} is broken; remove it and run again") from error
