"""What a request asks: its body within limits, and its JSON as checked values."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..errors import UserError
from ..predict.automatic.generator import SETTINGS
from ..predict.prompts import Prompt

JSON_BYTES = 2**16
"""Of the JSON of a request; a point takes some twenty."""
POINTS = 256
"""Of one prompt."""
DRAINED = 8
"""How many times its limit a body is read, and not kept, so that its sender reads the answer."""
STALLED, SLOWEST = 30.0, 600.0
"""Seconds from one part of a body to the next, and for all of it."""
CANDIDATES = 4
"""Masks of the decoder: the one for a clear prompt, and three for an ambiguous one."""
GRID = 64
"""Points along each side of everything mode's grid: twice Meta's, and some minutes."""
SIDE = 65_535
"""Of masks in pixels, longer than any picture."""
FORMATS = ("rle", "png")
"""Of masks."""


class RefusedError(UserError):
    """A request that is refused.

    Args:
        status: of the HTTP answer.
        message: one line.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def body(request: Request, most: int, what: str) -> bytes:
    """The body of a request.

    Args:
        request: its body is not read yet.
        most: bytes.
        what: the body is, for the message.

    Raises:
        RefusedError: it is longer, is not sent to its end, or takes longer than STALLED or SLOWEST.
    """
    try:
        return await asyncio.wait_for(_body(request, most, what), SLOWEST)
    except asyncio.TimeoutError as error:
        raise RefusedError(408, f"{what} does not arrive; send it again") from error


async def _body(request: Request, most: int, what: str) -> bytes:
    content, size = bytearray(), 0
    try:
        async with aclosing(request.stream()) as chunks:  # an empty one is the last
            while size <= DRAINED * most and (chunk := await asyncio.wait_for(anext(chunks), STALLED)):
                size += len(chunk)
                if size <= most:
                    content += chunk
    except ClientDisconnect as error:
        raise RefusedError(400, f"{what} ended after {size} bytes") from error
    if size > most:
        raise RefusedError(413, f"{what} is larger than {most} bytes; send less")
    return bytes(content)


@dataclass(frozen=True)
class Question:
    """A prompt, and how its masks are wanted.

    Attributes:
        picture: id of the picture.
        prompt: in pixels of the picture.
        exports: names; None for all of them.
        candidates: which of the decoder's masks.
        side: longest side of the masks in pixels; None for the picture's own.
        format: of the masks, one of FORMATS.
    """

    picture: str
    prompt: Prompt
    exports: tuple[str, ...] | None
    candidates: tuple[int, ...]
    side: int | None
    format: str


async def question(request: Request) -> Question:
    """The JSON of ``POST /predict``.

    Raises:
        RefusedError: it is longer than JSON_BYTES, is no JSON object, has a key that is unknown, or a value
            that is not what its key takes. Numbers of the prompt are checked against the picture later.
    """
    said = await _said(request, ("id", "points", "box", "exports", "candidates", "side", "format"))
    points = _list(said, "points")
    box = _list(said, "box") or None
    if len(points) > POINTS:
        raise RefusedError(400, f"'points' has {len(points)} points, expected {POINTS} at most")
    if not all(_is_numbers(point, 3) for point in points):
        raise RefusedError(
            400, "'points' is not a list of [x, y, label] in numbers, label 1 on the object and 0 off it"
        )
    if box and not _is_numbers(box, 4):
        raise RefusedError(400, "'box' is not [x0, y0, x1, y1] in numbers")
    exports = _list(said, "exports") if "exports" in said else None
    if exports is not None and not (exports and all(isinstance(name, str) for name in exports)):
        raise RefusedError(400, f"'exports' is {exports!r:.60}, expected names of exports")
    candidates = _list(said, "candidates") if "candidates" in said else [0]
    if not candidates or not all(type(one) is int and one in range(CANDIDATES) for one in candidates):
        raise RefusedError(400, f"'candidates' is {candidates!r:.60}, expected some of 0 to {CANDIDATES - 1}")
    prompt = Prompt(
        point_coords=[point[:2] for point in points] or None,
        point_labels=[point[2] for point in points] or None,
        box=box,
    )
    return Question(
        picture=_picture(said),
        prompt=prompt,
        exports=None if exports is None else tuple(dict.fromkeys(exports)),  # each once
        candidates=tuple(dict.fromkeys(candidates)),
        side=_side(said),
        format=_format(said),
    )


@dataclass(frozen=True)
class Search:
    """What everything mode is asked.

    Attributes:
        picture: id of the picture.
        export: its name; None for the first.
        side: longest side of the masks in pixels; None for the picture's own.
        settings: of the generator, by name.
    """

    picture: str
    export: str | None
    side: int | None
    settings: Mapping[str, Any]


async def search(request: Request) -> Search:
    """The JSON of ``POST /everything``; raises as `question`. Ranges of settings are checked later."""
    said = await _said(request, ("id", "export", "side", *SETTINGS))
    export = said.get("export")
    if not isinstance(export, str | None):
        raise RefusedError(400, f"'export' is {export!r:.60}, expected the name of an export")
    settings = {name: said[name] for name in SETTINGS if name in said}
    points = settings.get("points_per_side", 0)
    if type(points) is not int or points > GRID:
        raise RefusedError(400, f"'points_per_side' is {points!r:.60}, expected a whole number up to {GRID}")
    for name, value in settings.items():
        if not _is_number(value):
            raise RefusedError(400, f"{name} is {value!r:.60}, expected a number")
    return Search(_picture(said), export, _side(said), settings)


async def _said(request: Request, keys: Sequence[str]) -> dict[str, Any]:
    content = await body(request, JSON_BYTES, "the JSON of the request")
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise RefusedError(400, f"the request is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise RefusedError(400, f"the request is a JSON {type(said).__name__}, expected an object")
    for key in said:
        if key not in keys:
            raise RefusedError(400, f"'{key:.60}' is unknown, expected some of {', '.join(keys)}")
    return said


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; JSON's true and false are none."""
    return type(value) in (int, float) and -math.inf < value < math.inf  # type: ignore[operator]


def _is_numbers(value: object, count: int) -> bool:
    """Whether a value is a list of so many finite numbers."""
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _list(said: Mapping[str, Any], key: str) -> list[Any]:
    """The list of a key; without it an empty one."""
    value = said.get(key, [])
    if not isinstance(value, list):
        raise RefusedError(400, f"'{key}' is no list")
    return value


def _picture(said: Mapping[str, Any]) -> str:
    if not isinstance(said.get("id"), str):
        raise RefusedError(400, "'id' is missing: the picture's, from POST /embed")
    return str(said["id"])


def _side(said: Mapping[str, Any]) -> int | None:
    side = said.get("side")
    if side is not None and not (type(side) is int and 1 <= side <= SIDE):
        raise RefusedError(400, f"'side' is no whole number from 1 to {SIDE}")
    return side


def _format(said: Mapping[str, Any]) -> str:
    value = said.get("format", FORMATS[0])
    if value not in FORMATS:
        raise RefusedError(400, f"'format' is none of {', '.join(FORMATS)}")
    return str(value)
