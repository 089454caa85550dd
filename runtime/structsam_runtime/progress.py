"""Progress messages on the terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID

from .errors import printable


class Progress:
    """Prints each step with its duration; shows it while it runs if the console is a terminal.

    Args:
        console: the console; by default standard error, which keeps a command's standard output clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Show a step with a spinner.

        Args:
            what: name of the step.

        Yields:
            A list of notes; its texts are printed after the step.
        """
        with self._timed(what) as notes:
            if self.console.is_terminal:
                with self.console.status(f"{_text(what)} .."):
                    yield notes
            else:
                yield notes

    @contextmanager
    def phases(self, what: str) -> Iterator[tuple[list[str], "Phases"]]:
        """Show a step with a bar for each of its phases.

        Args:
            what: name of the step.

        Yields:
            A list of notes, as :meth:`step` does, and the bars.
        """
        bars = Bars(console=self.console, transient=True, disable=not self.console.is_terminal)
        with self._timed(what) as notes, bars if self.console.is_terminal else nullcontext():
            yield notes, Phases(bars, what)

    @contextmanager
    def _timed(self, what: str) -> Iterator[list[str]]:
        notes: list[str] = []
        start = time.perf_counter()
        yield notes
        seconds = time.perf_counter() - start
        told = f"  {_text(', '.join(notes))}" if notes else ""
        self.console.print(
            f"[green]✓[/] {_text(f'{what:<34}')}[dim]{seconds:6.1f} s[/]{told}", soft_wrap=True
        )


class Phases:
    """Phases of a step, one inside another; threads may report them.

    Args:
        bars: shows a bar for each phase that is under way.
        what: what the outermost phase is called.
    """

    def __init__(self, bars: Bars, what: str) -> None:
        self._bars, self._what = bars, what
        self._known: dict[str, tuple[TaskID, int]] = {}  # name -> its bar, and how deep it lies

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins.

        Args:
            phase: its name.
            parent: the phase that it is a part of; None for the outermost.
            steps: how many it has.
        """
        depth = self._known[parent][1] + 1 if parent in self._known else 0
        text = f"{'  ' * depth}{phase}" if depth else self._what
        self._known[phase] = self._bars.add_task(_text(text), total=steps), depth

    def advance(self, phase: str, done: int) -> None:
        """So many steps of a phase are done."""
        if phase in self._known:
            self._bars.update(self._known[phase][0], completed=done)

    def finish(self, phase: str) -> None:
        """A phase is over."""
        if phase in self._known:
            self._bars.remove_task(self._known.pop(phase)[0])


def _text(text: str) -> str:
    """Text as it is: no markup, and nothing that a terminal would obey."""
    return escape(printable(text))
