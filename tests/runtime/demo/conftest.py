"""A server of the page on small exports: one that merges nothing, and one with a plan and wider masks."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import uvicorn
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from structsam_runtime.demo.app import Demo, Photo, application
from structsam_runtime.demo.exports import opened
from structsam_runtime.demo.server import hosts, listen, url

WINDOW, GRID = 16, 64
"""Sides of the windows that the small export plans, and of its map of tokens."""


@dataclass(frozen=True)
class Site:
    """A running server: where, the address that is printed, and how to ask it without a browser."""

    port: int
    demo: Demo
    address: str

    def ask(
        self, method: str, path: str, content: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer. An underscore in a header's name is a hyphen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, content, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str, said: Any = None, content: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON: POST with JSON or bytes, GET without."""
        body = json.dumps(said).encode() if said is not None else content
        status, _, came = self.ask("GET" if body is None else "POST", path, body)
        return status, json.loads(came)


@contextmanager
def served(demo: Demo, token: str | None = None) -> Iterator[Site]:
    """A server in a thread of its own."""
    with listen("127.0.0.1", 0) as listening:
        app = application(demo, None if token else hosts(listening), token)
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Site(listening.getsockname()[1], demo, url(listening, token))
        finally:
            server.should_exit = True
            thread.join()


def plan_slots() -> NDArray[np.int32]:
    """[16 windows, 256 tokens]: in each window four rows are cells of 2 x 2, all other tokens are alone."""
    row, column = np.divmod(np.arange(WINDOW * WINDOW), WINDOW)
    cells = (row // 2) * (WINDOW // 2) + column // 2
    slot = np.where(row < 4, cells, np.arange(WINDOW * WINDOW) - 4 * WINDOW + 2 * (WINDOW // 2))
    return np.tile(slot.astype(np.int32), ((GRID // WINDOW) ** 2, 1))


def _add_plan(path: Path) -> None:
    """Give an encoder a normalisation and a plan, as exports have them: named, and no outputs."""
    model = onnx.load(path)
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Transpose", ["image_embedding"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["last", "rows"], ["tokens"]),
            helper.make_node("LayerNormalization", ["tokens", "encoder.blocks.3.norm1.weight"], ["normed"]),
            helper.make_node("Identity", ["slots"], ["blocks.3.slot"]),
        ]
    )
    constants = {
        "rows": np.array([-1, 256], np.int64),
        "encoder.blocks.3.norm1.weight": np.ones(256, np.float32),
        "slots": plan_slots(),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, path)


def _widen_masks(path: Path) -> None:
    """Make the decoder's smallest ellipse half as large again."""
    model = onnx.load(path)
    (tiny,) = (value for value in model.graph.initializer if value.name == "tiny")
    tiny.CopyFrom(numpy_helper.from_array(np.array(60, np.float32), "tiny"))
    onnx.save(model, path)


@pytest.fixture(scope="session")
def merging_folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_export: Callable[[Path], Path],
    sign_again: Callable[[Path], None],
) -> Path:
    """An export whose block 3 merges, in 16 windows."""
    folder = make_export(tmp_path_factory.mktemp("merging"))
    _add_plan(folder / "encoder.onnx")
    _widen_masks(folder / "decoder.onnx")
    path = folder / "manifest.json"
    said = json.loads(path.read_text())
    plan = {"block": 3, "slot": "blocks.3.slot", "windows": 16, "tokens": 256, "slots": 208}
    path.write_text(json.dumps(said | {"name": "merging", "plans": [plan]}))
    sign_again(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, NDArray[np.uint8]]) -> Path:
    """chelsea, 451 x 300, as a file."""
    path = tmp_path_factory.mktemp("photo") / "it's chelsea.png"
    Image.fromarray(photos["chelsea"]).save(path)
    return path


@pytest.fixture(scope="session")
def site(export_folder: Path, merging_folder: Path, photo: Path) -> Iterator[Site]:
    """A server of both exports, with a photograph to begin with."""
    with opened([export_folder, merging_folder], "cpu") as exports:
        demo = Demo(exports, Photo(str(photo), photo.read_bytes()), max_pixels=10**6)
        with served(demo) as site:
            yield site
