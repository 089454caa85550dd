"""Measurements in a file, one JSON line each, so that a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from structsam_runtime.errors import UserError


def key(what: str, *told: Any) -> str:
    """The key of a value.

    Args:
        what: kind of value, a word.
        told: tells it from all others of its kind, as JSON values.
    """
    return f"{what} {hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]}"


class Notebook:
    """Values by key; both are JSON.

    An incomplete last line, of a run that was killed while it wrote, is removed.

    Args:
        path: the file; None keeps values in memory alone.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        try:
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                path.write_bytes(whole)
            for line in whole.splitlines():
                self._values |= json.loads(line)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read: {error}; remove it, or choose another --output"
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: value}) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value of a key; it is measured and noted if there is none."""
        if key not in self:
            self[key] = measure()
        return self[key]
