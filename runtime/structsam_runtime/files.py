"""Files that appear whole or not at all, and are refused before any work is done for them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


def check_output(path: Path) -> None:
    """Refuse an output file that cannot be written, before any work is done for it.

    Raises:
        UserError: the folder is missing or read-only, or the path is itself a folder.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"cannot write {path}: no permission to write in {path.parent}; choose another folder"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that appears whole or not at all.

    Yields the path to write to, beside ``path`` and with the same suffix; it takes the place of ``path`` when
    the block ends well, and is removed when it does not.

    Raises:
        UserError: the file cannot be written (no such folder, no permission, disk full).
    """
    check_output(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
