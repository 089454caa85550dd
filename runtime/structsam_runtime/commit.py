"""Entries of a folder that change together or not at all, whatever kills the process.

What is being made lies in a box, a hidden folder beside what it is to replace:

    .LABEL.RANDOM.partial/
        .structsam    the mark of a box, locked for as long as the process that made it lives
        new/          what is being made
        ready/        the same, once nothing old is in its way
        old/          what it replaces
        last/         a file that replaces another at once, when all of the above is done

A commit moves the old entries out, renames `new` to `ready`, and moves the new entries in, so that old and
new ones are never there together. These names say how far a process came that died, and `recover` goes on
from there: with `ready` it moves in what is left of it, without it puts back what is in `old`.
The file in `last` is for what must never be away, not even for a moment.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .files import sync
from .manifest import FILE_NAME

MARK, NEW, READY, OLD, LAST = ".structsam", "new", "ready", "old", "last"
_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.partial", re.DOTALL)
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)

Stamp = Mapping[str, tuple[int, ...]]
"""Every path at and below an entry: number, size and time of a file, number of a folder."""


class ChangedError(UserError):
    """What is to be replaced is not what it was when the work began."""


class Box:
    """A box in a folder; gone at the end of its `with` block, unless something in it could not be put back.

    Args:
        base: the folder where entries are to appear.
        label: for the box's name. The entry of this name, or else the manifest, appears last and disappears
            first.
        names: entries of `base` that are replaced; None for all that it holds.

    Attributes:
        new: a folder to fill: what is in it appears in `base`.
        last: a folder for one file, or none: it takes the place of the file of its name in `base`.

    Raises:
        OSError: no box can be made there.
    """

    def __init__(self, base: Path, label: str, names: Iterable[str] | None) -> None:
        self.base, self._label = base, label
        self._names = None if names is None else tuple(names)
        self._before = self._found()
        self._path, self._lock = _make(base, label)
        self.new, self._ready, self._old, self.last = (self._path / name for name in (NEW, READY, OLD, LAST))
        self._settled = True  # whether what the box holds may go

    def __enter__(self) -> "Box":
        self.new.mkdir()
        self._old.mkdir()
        self.last.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._settled:
                _discard(self._path)
        finally:
            os.close(self._lock)

    def commit(self) -> None:
        """Let the new entries appear and those of `names` disappear, or leave everything as it is.

        Raises:
            ChangedError: an entry that would be replaced is not what it was when the box was made.
            OSError: something cannot be moved or written to the disk.
        """
        for path in (self.new, *self.new.rglob("*"), *self.last.iterdir()):
            sync(path)
        if self._found() != self._before:
            raise ChangedError(f"{self.base} changed")
        made, last, self._settled = names_in(self.new), names_in(self.last), False
        try:
            self._move()
        except BaseException:  # an interrupt too
            done = last and not names_in(self.last)  # it came after the very last step
            if not done:
                self._undo(made)
            self._settled = bool(done) or not names_in(self._old)
            raise
        self._settled = True
        sync(self.base)

    def _found(self) -> dict[str, Stamp]:
        return _stamps(self.base, names_in(self.base) if self._names is None else self._names)

    def _move(self) -> None:
        for name in reversed(_in_order(self._before, self._label)):
            (self.base / name).rename(self._old / name)
        if _stamps(self._old, self._before) != self._before:  # someone came between the look and the move
            raise ChangedError(f"{self.base} changed")
        self.new.rename(self._ready)
        for name in _in_order(names_in(self._ready), self._label):
            _move_in(self._ready / name, self.base / name)
        _replace(self.last, self.base)

    def _undo(self, made: Iterable[str]) -> None:
        if self._ready.exists():
            for name in reversed(_in_order(made, self._label)):
                if not os.path.lexists(self._ready / name):
                    (self.base / name).rename(self._ready / name)
            self._ready.rename(self.new)
        _put_back(self._old, self.base, self._label)


def recover(base: Path) -> None:
    """Finish or undo the commits of processes that died, and delete their boxes in a folder.

    A box of a living process stays, and one whose entries have since been made anew, so that nothing is lost.
    """
    for path in base.glob(".*.partial"):
        with suppress(OSError):  # what cannot be mended here is in nobody's way
            if is_box(path):
                _recover(path)


def is_box(path: Path) -> bool:
    """Whether a path is a box of this user by its name and everything in it; links are never of it."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    if path.stat().st_uid != os.geteuid():
        return False
    entries = list(path.iterdir())
    found = {entry.name for entry in entries}
    links = any(entry.is_symlink() for entry in entries)
    return not links and (not found or MARK in found <= {MARK, NEW, READY, OLD, LAST})


def names_in(folder: Path) -> list[str]:
    """What a folder holds, boxes aside; nothing where there is no folder."""
    return [path.name for path in folder.iterdir() if not is_box(path)] if folder.is_dir() else []


def _make(base: Path, label: str) -> tuple[Path, int]:
    """An empty box, and a handle that keeps it locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{label}.", suffix=".partial", dir=base))
        with suppress(FileNotFoundError):  # `recover` of another process took it for one that nobody uses
            lock = os.open(path / MARK, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return path, lock
            os.close(lock)


def _recover(path: Path) -> None:
    label = path.name[1:].rsplit(".", 2)[0]
    if not any(path.iterdir()):
        path.rmdir()  # died before it made the mark
        return
    lock = os.open(path / MARK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError while its process lives
        ready = (path / READY).exists()
        left = path / (READY if ready else OLD)
        _put_back(left, path.parent, label)
        if not names_in(left):
            if ready:
                _replace(path / LAST, path.parent)
            _discard(path)
    finally:
        os.close(lock)


def _put_back(source: Path, base: Path, label: str) -> None:
    """Move entries where there is nothing of their names."""
    for name in _in_order(names_in(source), label):
        if not os.path.lexists(base / name):
            (source / name).rename(base / name)


def _move_in(source: Path, target: Path) -> None:
    """Move an entry to a name that is free, or that of an empty folder.

    Raises:
        ChangedError: it is neither.
        OSError: it cannot be moved.
    """
    if os.path.lexists(target) and not target.is_dir():  # a file would be replaced without a word
        raise ChangedError(f"{target} appeared")
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise ChangedError(f"{target} appeared") from error
        raise


def _replace(last: Path, base: Path) -> None:
    """Let the file in a folder, if there is one, take the place of another at once."""
    for name in names_in(last):
        (last / name).replace(base / name)


def _discard(path: Path) -> None:
    """Delete a box; its mark last, so that whatever is left is still known for one."""
    for name in (OLD, NEW, READY, LAST):
        shutil.rmtree(path / name, ignore_errors=True)
    with suppress(OSError):
        (path / MARK).unlink(missing_ok=True)
        path.rmdir()


def _in_order(names: Iterable[str], label: str) -> list[str]:
    """Names in the order of appearance: last what makes the others count."""
    return sorted(names, key=lambda name: (name in (label, FILE_NAME), name))


def _stamps(folder: Path, names: Iterable[str]) -> dict[str, Stamp]:
    """Entries of a folder that are there; an empty folder is as good as none."""
    stamps = {name: _stamp(folder / name) for name in names}
    return {name: stamp for name, stamp in stamps.items() if stamp}


def _stamp(entry: Path) -> Stamp:
    if not os.path.lexists(entry):
        return {}
    paths = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else [entry]
    found = {str(path.relative_to(entry)): path.lstat() for path in paths}
    return {
        name: (one.st_ino,) if stat.S_ISDIR(one.st_mode) else (one.st_ino, one.st_size, one.st_mtime_ns)
        for name, one in found.items()
    }
