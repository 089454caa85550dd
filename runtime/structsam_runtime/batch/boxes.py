"""Boxes for a folder of pictures: a file of them, and those of one picture that can be answered."""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..predict.image import Frame
from ..predict.prompts import encode

Box = Sequence[float]
Boxes = Mapping[str, Sequence[Box]]
"""Picture -> its boxes x0, y0, x1, y1, in pixels of the picture."""

TOLD = 3
"""Reasons that one line gives; the result of a picture has all."""
FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda name: unicodedata.normalize("NFC", _slashed(name)),
    lambda name: unicodedata.normalize("NFKC", _slashed(name)),
)
"""Ways to compare names, from strict to lax. Accents are one character or two, depending on the system that
wrote them; Windows separates folders by backslashes."""


def read_boxes(path: Path) -> Boxes:
    """Read ``{"name.jpg": {"boxes": [[x0, y0, x1, y1], ...]}, ...}``; names are paths within the folder.

    Whether a box can be answered is seen when its picture is read: see `sound_boxes`.

    Raises:
        UserError: there is no such file, it holds something else, or nothing in it has the form of a box.
    """
    content = read_json(path, "boxes as JSON")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is no JSON object of pictures and their boxes")
    boxes = {name: _boxes(asked, name, path) for name, asked in content.items()}
    every = [(name, box) for name, given in boxes.items() for box in given]
    if every and not any(_is_box(box) for _, box in every):
        raise _unlike(content[every[0][0]], every[0][0], path)
    return boxes


def _boxes(asked: Any, name: str, path: Path) -> list[Any]:
    boxes = asked.get("boxes") if isinstance(asked, dict) and len(asked) == 1 else None
    if not isinstance(boxes, list):
        raise _unlike(asked, name, path)
    return boxes


def _unlike(asked: Any, name: str, path: Path) -> UserError:
    return UserError(
        f'{path} has {json.dumps(asked):.60} for {name:.200}, expected {{"boxes": [[x0, y0, x1, y1], ...]}}'
    )


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(place) in (int, float) for place in box)


def match(boxes: Boxes, pictures: Sequence[str], prompts: Path, folder: Path) -> Boxes:
    """Boxes by the names that the pictures have in their folder, however their file spells them.

    Args:
        boxes: of `read_boxes`.
        pictures: paths within the folder, with slashes.
        prompts, folder: for messages.

    Raises:
        UserError: a picture that is not there, a name that two pictures could have, or two names of one.
    """
    found: dict[str, str] = {}  # name in the file -> picture
    for form in FORMS:
        known: dict[str, list[str]] = {}
        for picture in pictures:
            known.setdefault(form(picture), []).append(picture)
        for name in boxes.keys() - found.keys():
            meant = known.get(form(name), [])
            if len(meant) > 1:
                raise UserError(f"{prompts} names {name:.200}, and {folder} has {len(meant)} such pictures")
            if meant:
                found[name] = meant[0]
    absent = sorted(boxes.keys() - found.keys())
    if absent:
        raise UserError(
            f"{prompts} names {len(absent)} pictures that {folder} lacks, such as {absent[0]:.200}"
        )
    named = {picture: name for name, picture in found.items()}
    twice = sorted(name for name, picture in found.items() if named[picture] != name)
    if twice:
        raise UserError(f"{prompts} names {found[twice[0]]} twice; put its boxes into one list")
    return {found[name]: given for name, given in boxes.items()}


def _slashed(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def sound_boxes(boxes: Sequence[Box], frame: Frame) -> tuple[list[Box], dict[int, str]]:
    """The boxes of a picture that can be answered, and what is wrong with the others, by number from 1.

    Raises:
        UserError: all of them are wrong; says why the first is.
    """
    sound: list[Box] = []
    errors: dict[int, str] = {}
    for number, box in enumerate(boxes, start=1):
        try:
            _check(box, frame)
        except UserError as error:
            errors[number] = str(error)
        else:
            sound.append(box)
    if errors and not sound:
        raise UserError((f"none of {len(errors)} boxes is right: " if len(errors) > 1 else "") + errors[1])
    return sound, errors


def _check(box: Any, frame: Frame) -> None:
    if not _is_box(box):
        raise UserError(f"the box is {json.dumps(box):.60}, expected [x0, y0, x1, y1]")
    encode(frame, box=box)


def told(errors: Mapping[int, str], boxes: Sequence[Box]) -> str | None:
    """One line about the boxes of a picture that are wrong; None if all are right."""
    if not errors:
        return None
    first = "; ".join(f"box {number}: {error}" for number, error in list(errors.items())[:TOLD])
    more = "; ..." if len(errors) > TOLD else ""
    return f"{len(errors)} of {len(boxes)} boxes have no mask: {first}{more}"
