"""The HTTP interface: pictures in, masks and plans out. docs/guide/demo.md describes it."""

import asyncio
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from .. import __version__
from ..errors import UserError, printable
from ..pictures import read_image
from ..pictures.opening import TooLargeError
from .asked import FORMATS, POINTS, Question, RefusedError, body, question, search
from .ending import Ending, while_there
from .exports import Export
from .guard import Guard
from .store import Picture, Store, preview
from .told import masks_as_json, plan_as_json

STATIC = Path(__file__).parent / "static"
UPLOAD = 32 * 2**20
"""Bytes of a picture's file."""
KEPT = 8
"""Pictures whose embeddings are kept; SAM's take 4 MB for each export."""
WAITING = 16
"""Slow requests that may be under way: one runs, the others wait for their turn."""
NAME = 200
"""Letters of a picture's name that messages repeat."""

T = TypeVar("T")


@dataclass(frozen=True)
class Photo:
    """A picture that the page begins with.

    Attributes:
        name: its path, as the person gave it.
        content: of the file.
    """

    name: str
    content: bytes


class _Named(io.BytesIO):
    """A picture's file with the name that messages give it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name or "the picture"


class Demo:
    """The answers of a server.

    What takes seconds (encoding, everything mode, plans) runs in one worker thread and what takes
    milliseconds in another, so that clicks are answered while a picture is encoded, and no two requests
    compete for the same runner.

    Args:
        exports: open; the first is what others are compared with.
        photo: what the page begins with; None for nothing.
        max_pixels: a larger picture is refused before it is decoded.
    """

    def __init__(self, exports: Sequence[Export], photo: Photo | None, max_pixels: int) -> None:
        self.exports = {export.name: export for export in exports}
        self.photo, self.max_pixels = photo, max_pixels
        self.store, self._waiting, self._turn = Store(KEPT), 0, asyncio.Lock()
        self._long, self._short = ThreadPoolExecutor(1, "long"), ThreadPoolExecutor(1, "short")

    async def about(self, request: Request) -> Response:
        """``GET /exports``."""
        return JSONResponse(
            {
                "structsam": __version__,
                "exports": [export.about() for export in self.exports.values()],
                "photo": self.photo and printable(self.photo.name),
                "limits": {
                    "bytes": UPLOAD,
                    "pixels": self.max_pixels,
                    "pictures": KEPT,
                    "points": POINTS,
                    "formats": FORMATS,
                },
            }
        )

    async def embed(self, request: Request) -> Response:
        """``POST /embed?name=``: the bytes of a picture's file."""
        with self._place():
            content = await body(request, UPLOAD, "the picture's file")
            name = request.query_params.get("name", "")[:NAME]
            picture = await while_there(request, self._kept(content, name))
        return JSONResponse(
            {
                "id": picture.id,
                "height": picture.height,
                "width": picture.width,
                "encoder_ms": {name: round(look.ms, 1) for name, look in picture.looks.items()},
                "notes": picture.notes,
            }
        )

    async def predict(self, request: Request) -> Response:
        """``POST /predict``."""
        asked = await question(request)
        picture = self.store.get(asked.picture)
        exports = [self._export(name) for name in asked.exports or self.exports]
        height, width = picture.fitted(asked.side)
        told = await while_there(request, self._answered(asked, picture, exports, height, width))
        return JSONResponse({"height": height, "width": width, "answers": told})

    async def everything(self, request: Request) -> Response:
        """``POST /everything``."""
        asked = await search(request)
        picture = self.store.get(asked.picture)
        export = self._export(asked.export)
        height, width = picture.fitted(asked.side)
        if min(height, width) == 1 < min(picture.height, picture.width):
            raise RefusedError(  # boxes around such masks have no area, so that all duplicates would stay
                400,
                f"'side' is {asked.side}: masks of {width} x {height} pixels are too thin for a picture of "
                f"{picture.width} x {picture.height}; give a larger one",
            )
        look = picture.looks[export.name]
        with self._place():
            work = self._slow(export.everything, look, asked.settings, height, width)
            found, ms = await while_there(request, work)
        told = {"height": height, "width": width, "export": export.name, "ms": round(ms, 1), "masks": found}
        return JSONResponse(told)

    async def plan(self, request: Request) -> Response:
        """``GET /plans/ID?export=&block=``."""
        picture = self.store.get(request.path_params["id"])
        export = self._export(request.query_params.get("export"))
        block, look = request.query_params.get("block", ""), picture.looks[export.name]
        if not (block.isdecimal() and len(block) < 4):
            raise RefusedError(400, f"the block is '{block:.20}', expected a number")
        with self._place():
            plan = await while_there(request, self._slow(export.plan, look, int(block)))
        return JSONResponse(plan_as_json(plan, look.embedding.frame))

    async def picture(self, request: Request) -> Response:
        """``GET /pictures/ID``: a JPEG, as the page shows it."""
        picture = self.store.get(request.path_params["id"])
        return Response(picture.preview, media_type="image/jpeg")

    async def begin(self, request: Request) -> Response:
        """``GET /photo``: the file that the page begins with."""
        if self.photo is None:
            raise RefusedError(404, "no picture was given to structsam demo; send one to /embed")
        return Response(self.photo.content, media_type="application/octet-stream")

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places of requests that take seconds.

        Raises:
            RefusedError: all are taken.
        """
        if self._waiting >= WAITING:
            raise RefusedError(503, f"{WAITING} requests are waiting already; send it again later")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def _export(self, name: str | None) -> Export:
        if name is None:
            return next(iter(self.exports.values()))
        if name not in self.exports:
            raise RefusedError(404, f"no export '{name:.80}'; expected one of {', '.join(self.exports)}")
        return self.exports[name]

    def _read(self, content: bytes, name: str) -> tuple[NDArray[np.uint8], list[str]]:
        """The pixels of a picture, and what a person should know about them."""
        notes: list[str] = []

        def note(kind: str, remark: str) -> None:
            notes.append(printable(remark))

        try:
            rgb = read_image(_Named(content, name), self.max_pixels, note=note)
        except TooLargeError as error:
            raise RefusedError(413, str(error)) from error
        except UserError as error:
            raise RefusedError(415, str(error)) from error
        return rgb, notes

    async def _kept(self, content: bytes, name: str) -> Picture:
        """The picture of a file, which is encoded if it is not kept.

        One after another, so that not the pixels of all that wait are in memory.
        """
        found = self.store.find(self.store.name(content))
        if found is None:
            async with self._turn:
                found = self.store.find(self.store.name(content)) or await self._encoded(content, name)
        return found

    async def _encoded(self, content: bytes, name: str) -> Picture:
        """Read a picture, encode it in every export, and keep what they made."""
        rgb, notes = await self._slow(self._read, content, name)
        looks = {export.name: await self._slow(export.look, rgb) for export in self.exports.values()}
        shown = await self._slow(preview, rgb)
        height, width, _ = rgb.shape
        picture = Picture(self.store.name(content), height, width, shown, looks, notes)
        self.store.put(picture)
        return picture

    async def _answered(
        self, asked: Question, picture: Picture, exports: Sequence[Export], height: int, width: int
    ) -> list[dict[str, Any]]:
        """The masks of each export for a prompt, as JSON."""
        first, told = None, []
        for export in exports:
            look = picture.looks[export.name]
            answer = await self._fast(export.answer, look, asked.prompt, asked.candidates, height, width)
            first = answer if first is None else first
            made = await self._fast(masks_as_json, answer, first, asked.candidates, asked.format)
            told.append({"export": export.name, "ms": round(answer.ms, 1), "masks": made})
        return told

    async def _slow(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._long, partial(work, *args))

    async def _fast(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._short, partial(work, *args))


def application(demo: Demo, hosts: Collection[str] | None, token: str | None) -> ASGIApp:
    """The server's ASGI application; for `hosts` and `token` see `Guard`."""
    routes = [
        Route("/", _page),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/exports", demo.about),
        Route("/photo", demo.begin),
        Route("/embed", demo.embed, methods=["POST"]),
        Route("/predict", demo.predict, methods=["POST"]),
        Route("/everything", demo.everything, methods=["POST"]),
        Route("/pictures/{id}", demo.picture),
        Route("/plans/{id}", demo.plan),
    ]
    told = {UserError: _mistake, HTTPException: _no_such, Exception: _defect}
    app = Starlette(routes=routes, exception_handlers=told, middleware=[Middleware(Ending)])
    return Guard(app, hosts, token)


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "page.html", headers={"cache-control": "no-cache"})


async def _mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, RefusedError) else 400)


async def _no_such(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = f"{request.method} {request.scope['path']:.100} is not answered: see docs/guide/demo.md"
    return JSONResponse({"error": printable(told)}, status)


async def _defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a defect of the server; its terminal says more"}, 500)
