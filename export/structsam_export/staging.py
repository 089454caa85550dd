"""The folder of an export: what it may replace, and how it appears."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structsam_runtime import reference
from structsam_runtime.commit import Box, ChangedError, names_in, recover
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import FILE_NAME
from structsam_runtime.runners.tensorrt import PLUGINS

_FIXED = (errno.EBUSY, errno.EXDEV)
"""Errors of renaming a mount point, and of renaming to another file system."""


def check_folder(folder: Path, force: bool) -> None:
    """Refuse, before any work is done, an output folder that could not be made.

    What exports that died left beside it is put right first.

    Raises:
        UserError: it exists and `force` is not given; it exists and is no export, which `force` does not
            delete either; or it cannot be written.
    """
    if folder.resolve() == Path.cwd():
        raise UserError(f"--output {folder} is the folder you are in; choose one to make")
    for base in (folder.resolve().parent, folder.resolve()):
        recover(base)
    if folder.exists():
        if not folder.is_dir():
            raise UserError(f"--output {folder} is a file; expected a folder to make")
        if names_in(folder):
            if not _is_export(folder):
                raise UserError(
                    f"--output {folder} holds files that are not an export; choose another folder"
                )
            if not force:
                raise UserError(
                    f"--output {folder} holds an export already; choose another folder, or add --force"
                )
    check_writable("--output", folder, inside=_base(folder))


def check_writable(option: str, folder: Path, inside: Path) -> None:
    """Refuse a folder for which no file can be written.

    Args:
        option, folder: for the message.
        inside: where files will be written; is made if it is not there.

    Raises:
        UserError: no permission, or a file is in the way.
    """
    try:
        inside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=inside):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {folder} cannot be written: {error.strerror}; choose another folder"
        ) from error


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an export and nothing else, so that replacing it loses nothing of the user's."""
    kinds = ("onnx", "onnx.data", "engine")
    parts = ("encoder", "decoder", "decoder.meta", "encoder.plugins")
    ours = {FILE_NAME, PLUGINS, reference.FILE} | {f"{part}.{kind}" for part in parts for kind in kinds}
    names = set(names_in(folder))
    # Other programs have a manifest.json too, but no encoder beside it.
    return {FILE_NAME, "encoder.onnx"} <= names <= ours and all((folder / name).is_file() for name in names)


def _base(folder: Path) -> Path:
    """Where a folder is made: beside it; or inside, if it cannot be renamed or nothing can be beside it."""
    folder = folder.resolve()
    fixed = folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.parent, os.W_OK))
    return folder if fixed else folder.parent


@contextmanager
def disk(folder: Path, left: str = "nothing was written") -> Iterator[None]:
    """Tell in one line that an output cannot be written: disk full, file too large, folder gone.

    Args:
        folder: of the output.
        left: how it stands then.

    Raises:
        UserError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {folder} cannot be written: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; {left}"
        ) from error


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if the block ends well, and is gone otherwise.

    Args:
        folder: replaced if it exists; until the very end it stays as it was. A mount point, which cannot be
            renamed, has its content replaced.

    Raises:
        UserError: at the end `folder` is not what it was at the beginning. It stays, and what was made is in
            a folder of another name, which the message tells.
        OSError: the disk is full, the folder gone, ...
    """
    inside = _base(folder) == folder
    with Box(folder if inside else folder.parent, folder.name, None if inside else [folder.name]) as box:
        made = box.new if inside else box.new / folder.name
        made.mkdir(exist_ok=True)
        yield made
        try:
            _appear(box, folder, made)
        except ChangedError as error:
            kept = _keep(made, folder, box.base)
            raise UserError(
                f"{folder} changed while this export ran, and stays as it is; the new export is in {kept}"
            ) from error


def _appear(box: Box, folder: Path, made: Path) -> None:
    """Commit; a copy of what was made, where only that goes into the folder."""
    try:
        box.commit()
    except OSError as error:
        if box.base == folder or error.errno not in _FIXED:
            raise
        with Box(folder, folder.name, None) as inside:
            shutil.copytree(made, inside.new, dirs_exist_ok=True)
            inside.commit()


def _keep(made: Path, folder: Path, base: Path) -> Path:
    """Move what was made to the first name that is free: `folder` with a number."""
    names = (base / f"{folder.name}-{number}" for number in itertools.count(2))
    kept = next(path for path in names if not os.path.lexists(path))
    made.rename(kept)
    return kept
