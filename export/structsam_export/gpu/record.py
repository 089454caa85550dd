"""The result of a run in a bounded time, on disk after every row."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from structsam_runtime.benchmarking.tables import write_result

from .page import page

ROOT = Path(__file__).resolve().parents[3]
_FOLDER = re.compile(r"(?<![\w.:/])/(?:[^\s/:\"',]+/)+")


def without_folders(text: str) -> str:
    """A text in which no path names a folder of this machine: files of the project keep their place in it."""
    return _FOLDER.sub("", text.replace(f"{ROOT}/", ""))


class Record:
    """Rows of a result, misses, and what was left out.

    Args:
        output: the result file, .json; the page is written beside it as .md.
        head: machine and settings, for the result.
        minutes: the time that all attempts have.
    """

    def __init__(self, output: Path, head: dict[str, Any], minutes: float) -> None:
        self.output, self.end = output, time.monotonic() + 60 * minutes
        self.reserve = 0.0  # seconds that attempts leave for those after them
        self._longest: dict[str, float] = {}
        lists: dict[str, list[Any]] = {
            name: [] for name in ("checks", "encoders", "kernels", "notes", "misses", "left_out")
        }
        self.content: dict[str, Any] = {**head, **lists}

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def add(self, name: str, entry: Any) -> None:
        """Append a row of `checks`, `encoders` or `kernels`, or a line of `notes`, `misses` or `left_out`."""
        self.content[name].append(entry)
        if isinstance(entry, str):
            typer.echo(f"{name.replace('_', ' ')}: {entry}", err=True)
        self.write()

    def attempt(self, what: str, kind: str, seconds: float, work: Callable[[], object]) -> bool:
        """Do a piece of work if there is time for it; what it raises is a miss, and the run goes on.

        Args:
            what: name in messages.
            kind: the longest piece of the same kind so far replaces the estimate.
            seconds: the estimate.
            work: adds rows itself.

        Returns:
            Whether it was done.
        """
        needed = 1.1 * self._longest.get(kind, seconds)
        if self.left - self.reserve < needed:
            self.add("left_out", f"{what}: needs about {needed:.0f} s")
            return False
        start = time.monotonic()
        typer.echo(f"{what} ({self.left:.0f} s left)", err=True)
        try:
            work()
        except Exception as error:  # whatever it is, the other contestants still run
            line = without_folders(" ".join(f"{type(error).__name__}: {error}".split()))
            self.add("misses", f"{what}: {line[:200]}")
            return False
        finally:
            self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - start)
            free()
        return True

    def write(self) -> None:
        """Rewrite both files whole."""
        write_result(self.output, self.content, page(self.content))


def free() -> None:
    """Return a GPU's memory of what is no longer used."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
