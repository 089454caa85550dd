"""Checkpoints from Meta's server, kept in a cache: whole and with the right hash, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import Progress

from structsam_runtime.digest import cache_folder, sha256
from structsam_runtime.errors import UserError
from structsam_runtime.files import whole_file

from .architectures import ARCHITECTURES

META = "https://dl.fbaipublicfiles.com/segment_anything/"
SHIPPED = Path(__file__).parents[1] / "weights"
"""Checkpoints that are part of this package."""
PATIENCE = 30.0
"""Seconds that a server may be silent."""
TRIES = 3
"""Connections that a download may take; each goes on where the last one broke off."""
INSTEAD = "use --checkpoint PATH for a file you have, or --random-weights to try without one"


def own_weights(arch: str) -> Path:
    """Where an architecture's own checkpoint is, or will be once it was downloaded."""
    size = ARCHITECTURES[arch]
    return (cache_folder() if size.sha256 else SHIPPED) / size.file


def download(arch: str) -> Path:
    """An architecture's own checkpoint: shipped, from the cache, or from Meta, with a progress bar.

    Returns:
        The file. A download appears in the cache whole and checked by its hash, or not at all; one that has
        changed there is not used.

    Raises:
        UserError: no network, a server that falls silent, or not the file that was expected.
    """
    path, size = own_weights(arch), ARCHITECTURES[arch]
    if size.sha256 is None:
        return path
    if path.is_file():
        _check(path, size.sha256)
        return path
    url = META + size.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
        try:
            with os.fdopen(part, "w+b") as file:
                _fetch(url, file)
            if (found := sha256(Path(name))) != size.sha256:
                raise OSError(f"its sha256 is {found[:12]}.., expected {size.sha256[:12]}..")
            Path(name).chmod(0o644)  # a temporary file is for its owner alone
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        _remember(path, size.sha256)
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot download {url} ({reason}); {INSTEAD}") from error
    return path


def _fetch(url: str, file: BinaryIO) -> None:
    """Everything behind an address, over several connections if it must be.

    Raises:
        OSError, HTTPException: the last of them failed.
    """
    for remaining in reversed(range(TRIES)):
        try:
            _go_on(url, file)
        except (OSError, HTTPException):
            if not remaining or not file.tell():  # a server that gave nothing will not give more
                raise
        else:
            return


def _go_on(url: str, file: BinaryIO) -> None:
    """Append what is missing of a file.

    Raises:
        OSError, HTTPException: the connection failed, fell silent, or ended early.
    """
    begun = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    with urlopen(Request(url, headers=headers), timeout=PATIENCE) as answer:
        if begun and answer.status != 206:  # the server begins again
            file.seek(0)
            begun = file.truncate()
        length = int(answer.headers.get("Content-Length") or 0)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
            bar = shown.add_task(url.rpartition("/")[2], total=begun + length or None, completed=begun)
            while part := answer.read1(1 << 20):  # what is there: a silent server leaves it with us
                file.write(part)
                shown.advance(bar, len(part))
    if file.tell() < begun + length:
        raise ConnectionError(f"ended after {file.tell()} of {begun + length} bytes")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _state(path: Path, digest: str) -> dict[str, Any]:
    """What tells that a file is still the one whose hash was computed."""
    told = path.stat()
    return {"bytes": told.st_size, "modified": told.st_mtime_ns, "sha256": digest}


def _remember(path: Path, digest: str) -> None:
    """Note that a file has a hash; where that cannot be written, it is computed anew every time."""
    with contextlib.suppress(UserError), whole_file(_record(path)) as part:
        part.write_text(json.dumps(_state(path, digest)))


def _check(path: Path, expected: str) -> None:
    """Hold a cached file against its hash, unless that was done and neither size nor time changed since.

    Raises:
        UserError: it is another file.
    """
    try:
        if json.loads(_record(path).read_bytes()) == _state(path, expected):
            return
    except (OSError, ValueError):
        pass  # never checked, or the record is damaged
    if (found := sha256(path)) != expected:
        raise UserError(
            f"{path} has sha256 {found[:12]}.., expected {expected[:12]}..; delete it to download it again"
        )
    _remember(path, expected)
