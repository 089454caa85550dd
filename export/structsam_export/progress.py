"""What a person sees while an export is being made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from structsam_runtime.errors import printable

Item = TypeVar("Item")


def shown(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    """The same items, and a bar of how many have been taken; nothing where no one watches."""
    console = Console(stderr=True)
    quiet = not console.is_terminal  # where rich would still leave an empty line
    return track(items, what, total, transient=True, console=console, disable=quiet)


def _text(text: str) -> str:
    """Text as it is: no markup, and nothing that a terminal would obey."""
    return escape(printable(text))


class Progress:
    """Names each step while it runs and says how long it took; without a spinner where no one watches.

    Args:
        console: where to; standard error, so that a command's own output stays clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Show a step; what is appended to the list it gives is told when it is done."""
        notes: list[str] = []
        start = time.perf_counter()
        if self.console.is_terminal:
            with self.console.status(f"{_text(what)} .."):
                yield notes
        else:
            yield notes
        seconds = time.perf_counter() - start
        told = f"  {_text(', '.join(notes))}" if notes else ""
        self.console.print(
            f"[green]✓[/] {_text(f'{what:<34}')}[dim]{seconds:6.1f} s[/]{told}", soft_wrap=True
        )
