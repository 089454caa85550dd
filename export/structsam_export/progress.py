"""Progress messages on the terminal."""

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
    """Iterate over items with a progress bar; without one if standard error is no terminal.

    Args:
        items: the items.
        what: label of the bar.
        total: number of items.
    """
    console = Console(stderr=True)
    quiet = not console.is_terminal  # rich would still print an empty line
    return track(items, what, total, transient=True, console=console, disable=quiet)


def _text(text: str) -> str:
    """Text as it is: no markup, and nothing that a terminal would obey."""
    return escape(printable(text))


class Progress:
    """Prints each step with its duration; with a spinner while it runs if the console is a terminal.

    Args:
        console: the console; by default standard error, which keeps a command's standard output clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Show a step.

        Args:
            what: name of the step.

        Yields:
            A list of notes; its texts are printed after the step.
        """
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
