"""Loops with a progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

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
