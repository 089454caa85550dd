"""The program `structsam`: finds its commands, and imports the one that is called."""

import ast
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from .. import __version__
from .console import fail, interrupted, join_values, missing, run

PACKAGES = ("structsam_runtime.cli", "structsam_export.cli")
"""Where commands are. The second is a name alone: it needs packages that are not everywhere."""


@dataclass(frozen=True)
class Command:
    """A module of PACKAGES that has a function `main`, whose arguments typer reads.

    Attributes:
        module: its full name; the last part is what the command is called.
        summary: first line of the module's docstring.
    """

    module: str
    summary: str


def structsam(args: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process with its exit code, as `console.run` does.

    Where a package is missing, one line says which extra brings it, and the exit code is 2. SIGTERM and
    SIGHUP are interruptions as Ctrl-C is, so that what was begun is cleaned up; after `nohup` SIGHUP is none.

    Args:
        args: a command's name and its arguments; default ``sys.argv[1:]``.
    """
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if isinstance(sys.stdout, TextIOWrapper):  # as standard error: a name may be what no encoding has
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _start(args)
    except KeyboardInterrupt:  # while a command is imported; what runs one has an answer of its own
        sys.exit(interrupted())


def _start(args: Sequence[str] | None) -> NoReturn:
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    name, found = words[0], commands()
    if name in found:
        _call(name, found[name], words[1:])
    if not name.startswith("-"):
        sys.exit(fail(f"no command '{name}'; expected one of {', '.join(found)}"))
    run(_overview(found), words, "structsam")


def commands() -> dict[str, Command]:
    """Every command by its name, in alphabetical order; read from the sources, none is imported."""
    found = {}
    for package in PACKAGES:
        for folder in importlib.import_module(package).__path__:
            for file in Path(folder).glob("*.py"):
                tree = ast.parse(file.read_text(encoding="utf-8"))
                if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
                    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
                    found[file.stem] = Command(f"{package}.{file.stem}", summary)
    return dict(sorted(found.items()))


def _call(name: str, command: Command, args: Sequence[str]) -> NoReturn:
    """Run one command; its module may have VALUES for `join_values`."""
    try:
        module = importlib.import_module(command.module)
        run(module.main, join_values(args, getattr(module, "VALUES", {})), f"structsam {name}")
    except ModuleNotFoundError as error:
        missing(error, f"structsam {name}")


def _overview(found: dict[str, Command]) -> typer.Typer:
    """What `structsam --help` and `--version` print."""
    app = typer.Typer(add_completion=False)
    app.callback()(_options)
    for name, command in found.items():
        app.command(name, help=command.summary)(lambda: None)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"structsam {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Segment Anything with merged tokens: export it to ONNX and TensorRT, check it, run it, measure it."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
