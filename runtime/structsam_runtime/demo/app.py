"""The HTTP interface: pictures in, masks and plans out. docs/guide/demo.md describes it."""

import asyncio
import base64
import io
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from .. import __version__
from ..check import mask_ious
from ..errors import UserError
from ..pictures import read_image
from ..pictures.opening import TooLargeError
from .asked import FORMATS, POINTS, RefusedError, body, question, search
from .exports import Answer, Export
from .guard import Guard
from .store import Picture, Store, preview
from .taps import Plan

STATIC = Path(__file__).parent / "static"
UPLOAD = 32 * 2**20
"""Bytes of a picture's file."""
KEPT = 8
"""Pictures whose embeddings are kept; SAM's take 4 MB for each export."""
WAITING = 16
"""Pictures that may wait for their turn."""
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
                "photo": self.photo and self.photo.name,
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
        if self._waiting >= WAITING:
            raise RefusedError(503, f"{WAITING} pictures are waiting already; send it again later")
        self._waiting += 1
        try:
            content = await body(request, UPLOAD, "the picture's file")
            name = request.query_params.get("name", "")[:NAME]
            # One after another, so that not the pixels of all that wait are in memory.
            async with self._turn:
                picture = self.store.find(self.store.name(content)) or await self._encoded(content, name)
        finally:
            self._waiting -= 1
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
        first, told = None, []
        for export in exports:
            look = picture.looks[export.name]
            answer = await self._fast(export.answer, look, asked.prompt, asked.candidates, height, width)
            first = answer if first is None else first
            made = await self._fast(_masks, answer, first, asked.candidates, asked.format)
            told.append({"export": export.name, "ms": round(answer.ms, 1), "masks": made})
        return JSONResponse({"height": height, "width": width, "answers": told})

    async def everything(self, request: Request) -> Response:
        """``POST /everything``."""
        asked = await search(request)
        picture = self.store.get(asked.picture)
        export = self._export(asked.export)
        height, width = picture.fitted(asked.side)
        look = picture.looks[export.name]
        found, ms = await self._slow(export.everything, look, asked.settings, height, width)
        told = {"height": height, "width": width, "export": export.name, "ms": round(ms, 1), "masks": found}
        return JSONResponse(told)

    async def plan(self, request: Request) -> Response:
        """``GET /plans/ID?export=&block=``."""
        picture = self.store.get(request.path_params["id"])
        export = self._export(request.query_params.get("export"))
        block, look = request.query_params.get("block", ""), picture.looks[export.name]
        if not (block.isdecimal() and len(block) < 4):
            raise RefusedError(400, f"the block is '{block:.20}', expected a number")
        plan = await self._slow(export.plan, look, int(block))
        frame = look.embedding.frame
        patch = export.model.image_size / plan.slot.shape[1]
        # A token's width and height in pixels of the picture; those of padding are not told.
        size = [patch * frame.width / frame.resized_width, patch * frame.height / frame.resized_height]
        rows, columns = -(-frame.resized_height // patch), -(-frame.resized_width // patch)
        return JSONResponse(_plan(plan, int(rows), int(columns), size))

    async def picture(self, request: Request) -> Response:
        """``GET /pictures/ID``: a JPEG, as the page shows it."""
        picture = self.store.get(request.path_params["id"])
        return Response(picture.preview, media_type="image/jpeg")

    async def begin(self, request: Request) -> Response:
        """``GET /photo``: the file that the page begins with."""
        if self.photo is None:
            raise RefusedError(404, "no picture was given to structsam demo; send one to /embed")
        return Response(self.photo.content, media_type="application/octet-stream")

    def _export(self, name: str | None) -> Export:
        if name is None:
            return next(iter(self.exports.values()))
        if name not in self.exports:
            raise RefusedError(404, f"no export '{name:.80}'; expected one of {', '.join(self.exports)}")
        return self.exports[name]

    def _read(self, content: bytes, name: str) -> tuple[NDArray[np.uint8], list[str]]:
        """The pixels of a picture, and what a person should know about them."""
        notes: list[str] = []
        try:
            rgb = read_image(
                _Named(content, name), self.max_pixels, note=lambda kind, remark: notes.append(remark)
            )
        except TooLargeError as error:
            raise RefusedError(413, str(error)) from error
        except UserError as error:
            raise RefusedError(415, str(error)) from error
        return rgb, notes

    async def _encoded(self, content: bytes, name: str) -> Picture:
        """Read a picture, encode it in every export, and keep what they made."""
        rgb, notes = await self._slow(self._read, content, name)
        looks = {export.name: await self._slow(export.look, rgb) for export in self.exports.values()}
        shown = await self._slow(preview, rgb)
        height, width, _ = rgb.shape
        picture = Picture(self.store.name(content), height, width, shown, looks, notes)
        self.store.put(picture)
        return picture

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
    return Guard(Starlette(routes=routes, exception_handlers=told), hosts, token)


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "page.html", headers={"cache-control": "no-cache"})


async def _mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, RefusedError) else 400)


async def _no_such(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = f"{request.method} {request.url.path:.100} is not answered: see docs/guide/demo.md"
    return JSONResponse({"error": told}, status)


async def _defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a defect of the server; its terminal says more"}, 500)


def _masks(answer: Answer, first: Answer, candidates: Sequence[int], kind: str) -> list[dict[str, Any]]:
    """The masks of an answer as JSON, each with its agreement with that of the first export."""
    shared = mask_ious(first.masks, answer.masks)
    return [
        {
            "candidate": candidate,
            "predicted_iou": round(float(quality), 4),
            "area": int(mask.sum()),
            "agreement": round(float(iou), 4),
            kind: _png(mask) if kind == "png" else _rle(mask),
        }
        for candidate, quality, mask, iou in zip(candidates, answer.iou, answer.masks, shared, strict=True)
    ]


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [H, W] as COCO's compressed run lengths."""
    from pycocotools.mask import encode

    lengths = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": lengths["counts"].decode()}


def _png(mask: NDArray[np.bool_]) -> str:
    """A mask [H, W] as a PNG of 0 and 255, in base64."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _plan(plan: Plan, rows: int, columns: int, size: Sequence[float]) -> dict[str, Any]:
    """A plan as JSON, without the tokens of padding."""
    part = np.s_[:rows, :columns]
    return {
        "rows": rows,
        "columns": columns,
        "token": list(size),
        "windows": plan.windows,
        "slots": plan.slots,
        "tokens": plan.tokens,
        "slot": plan.slot[part].ravel().tolist(),
        "alone": plan.alone[part].ravel().astype(int).tolist(),
        "energy": None if plan.energy is None else _levels(plan.energy[part]).ravel().tolist(),
    }


def _levels(energy: NDArray[np.float32]) -> NDArray[np.int64]:
    """Energy in whole numbers, 0 at its 1st percentile and 255 at its 99th."""
    low, high = np.percentile(energy, (1, 99))
    share = np.clip((energy - low) / max(high - low, 1e-9), 0, 1)
    levels: NDArray[np.int64] = np.rint(255 * share).astype(np.int64)
    return levels
