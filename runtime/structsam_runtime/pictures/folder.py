"""The one answer to which files of a folder are pictures."""

import os
import stat
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, printable
from .formats import suffixes

FOLDER = "folders"


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        pictures: paths within it, with slashes, sorted.
        skipped: reason -> what was skipped for it, the same way.
    """

    pictures: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        """Note a file or folder that is skipped."""
        self.skipped.setdefault(reason, []).append(path)

    @property
    def skips(self) -> int:
        """How many files and folders were skipped."""
        return sum(map(len, self.skipped.values()))

    def say(self) -> None:
        """Print on stderr what was skipped, a line for each reason."""
        for reason, paths in self.skipped.items():
            print(f"skipped {len(paths)} ({reason}): {_some(paths)}", file=sys.stderr)


def list_pictures(folder: Path, deep: bool = True) -> Listing:
    """The pictures of a folder: regular files, not hidden, whose suffix is of a format that is read here.

    Links are followed. A folder that can be reached on several ways is looked at once, on a way without links
    if there is one; so links that go round do no harm.

    Args:
        folder: what is looked into.
        deep: also into the folders in it.

    Raises:
        UserError: there is no such folder, or it cannot be listed.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected one with pictures")
    known, seen, found = suffixes(), set[tuple[int, int]](), Listing()
    real, linked = deque([""]), deque[str]()
    while real or linked:
        path = (real or linked).popleft()
        for entry in _entries(folder, path, seen, found):
            below, reason = f"{path}/{entry.name}".lstrip("/"), _reason(entry, known)
            if reason is None:
                found.pictures.append(below)
            elif reason == FOLDER and deep:
                (linked if entry.is_symlink() else real).append(below)
            else:
                found.skip(reason, below)
    found.pictures.sort()
    return found


def _entries(folder: Path, path: str, seen: set[tuple[int, int]], found: Listing) -> list[os.DirEntry[str]]:
    """What lies in ``path`` of the folder, sorted; nothing where it was seen before or cannot be listed."""
    try:
        status = (folder / path).stat()
        if (status.st_dev, status.st_ino) in seen:
            found.skip("links to folders that are listed already", path)
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder / path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not path:
            raise UserError(f"cannot list {folder}: {error.strerror}") from error
        found.skip("folders that cannot be listed", path)
        return []


def _reason(entry: os.DirEntry[str], known: frozenset[str]) -> str | None:
    """Why an entry is not a picture; None where it is one."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "links to nothing" if entry.is_symlink() else "out of reach"
    if stat.S_ISDIR(mode):
        return FOLDER
    if not stat.S_ISREG(mode):
        return "no regular files"
    if Path(entry.name).suffix.lower() not in known:
        return "not named like pictures"
    return None


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(map(printable, paths[:3])) + more
