"""The one exception for a person's mistake, and how text from outside is written in messages."""

import unicodedata


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: what came, what was expected, what to do.

    The message is one printable line whatever it was built from, so that a command-line script can print it
    as ``error: ...`` and leave (:func:`structsam_runtime.cli.console.run`). Everything else that is raised is
    a defect of this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(line.strip() for line in message.splitlines())))


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
