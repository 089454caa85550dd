"""The one exception for a person's mistake, and the one warning."""


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: what came, what was expected, what to do.

    The message is one line whatever it was built from, so that a command-line script can print it as
    ``error: ...`` and leave (:func:`structsam_runtime.cli.console.run`). Everything else that is raised is a
    defect of this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class Caution(UserWarning):
    """What is done as asked, and may not be what was meant; one line, which commands print on stderr."""
