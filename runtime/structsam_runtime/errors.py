"""The one exception for a person's mistake, the one warning, and text from outside as messages show it."""

import sys
import unicodedata
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: what came, what was expected, what to do.

    The message is one printable line whatever it was built from, so that a command-line script can print it
    as ``error: ...`` and leave (:func:`structsam_runtime.cli.console.run`). Everything else that is raised is
    a defect of this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(line.strip() for line in message.splitlines())))


class NotFiniteError(UserError):
    """A model gives NaN or infinity."""


class Caution(UserWarning):
    """What is done as asked, and may not be what was meant; one line, which commands print on stderr."""


def printable(text: str) -> str:
    """Text from a file, a name or a key, with what a terminal would obey or hide written out: ``\\x1b``.

    Letters of every script and all spaces stay. Control characters, line ends, marks that turn the direction
    of writing and halves of surrogate pairs, which no terminal's encoding takes, are written as Python does.
    """
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def one_line(other: Callable[..., None]) -> Callable[..., None]:
    """A `warnings.showwarning` that prints a `Caution` as one line on stderr; another one shows the rest."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, Caution):
            print(f"warning: {printable(str(message))}", file=sys.stderr)
        else:
            other(message, category, *where)

    return show
