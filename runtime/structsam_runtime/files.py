"""Files: outputs that appear whole or not at all, and JSON that is read with limits."""

import contextlib
import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

JSON_BYTES = 48 * 2**20
"""The largest JSON file that is read: the boxes of a million objects. Python needs up to 25 times as much."""
JSON_DEPTH = 32
"""How deep lists and objects of a JSON file may lie in one another."""
TOO_DEEP = f"lists and objects lie more than {JSON_DEPTH} deep in one another"


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
        # Some file systems cannot do it for folders.
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def read_json(path: Path, what: str = "JSON") -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Integers of more than 18 digits come as floats, infinity where a float ends: nothing that is computed or
    printed later has hundreds of digits. NaN and infinity are read, as Python writes them.

    Args:
        path: a regular file of at most JSON_BYTES.
        what: is expected there, for the message where nothing is: ``boxes as JSON``.

    Raises:
        UserError: no such file, or it cannot be read, is larger or deeper than the limits, is not JSON, or
            gives a key of an object twice.
    """
    try:
        content = json.loads(_content(path), parse_int=_number, object_pairs_hook=_unique)
        _check_depth(content)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; expected {what}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as JSON: {TOO_DEEP}") from error
    except (OSError, ValueError) as error:  # bad UTF-8 and bad JSON are both a ValueError
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    return content


def _content(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(JSON_BYTES + 1)
    if len(content) > JSON_BYTES:
        raise ValueError(f"it has more than {JSON_BYTES >> 20} MiB, expected less; split it")
    return content


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it gives {twice[:60]!r} twice")
    return content


def _check_depth(content: Any) -> None:
    """Level by level, so that the depth of a file does not become a depth of calls."""
    level = [content]
    for _ in range(JSON_DEPTH + 1):
        level = [
            value
            for one in level
            if isinstance(one, dict | list)
            for value in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)
