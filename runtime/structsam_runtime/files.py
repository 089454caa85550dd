"""Files that appear whole or not at all, and are refused before any work is done for them."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import UserError


def check_output(path: Path, photo: Path | None = None) -> None:
    """Refuse an output file that cannot be written, before any work is done for it.

    Args:
        path: the output.
        photo: what it is made of, if it must not take its place.

    Raises:
        UserError: the folder is missing or read-only, the path is itself a folder, or it is the photograph.
    """
    if photo and path.resolve() == photo.resolve():
        raise UserError(f"the output {path} is the photograph itself; choose another name")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"cannot write {path}: no permission to write in {path.parent}; choose another folder"
        )


def check_drawing(output: Path, photo: Path, formats: Sequence[str]) -> None:
    """Refuse a drawing that cannot be written, before any work is done for it.

    Args:
        output: of the command line.
        photo: what is drawn.
        formats: suffixes that can be drawn, with their dots; at least two.

    Raises:
        UserError: another suffix, or as in `check_output`.
    """
    if output.suffix.lower() not in formats:
        raise UserError(f"--output {output} does not end in {', '.join(formats[:-1])} or {formats[-1]}")
    check_output(output, photo)


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
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk holds what was written to a file, or which names a folder holds.

    Raises:
        OSError: the disk is full, gone, or damaged.
    """
    folder = path.is_dir()
    if folder and os.name != "posix":
        return  # only POSIX opens folders
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some file systems have no such thing
            raise
    finally:
        os.close(handle)
