"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structsam_runtime.errors import UserError
from structsam_runtime.runners.tensorrt import PLUGINS


def check_folder(folder: Path, force: bool) -> None:
    """Refuse, before any work is done, an output folder that could not be made.

    Raises:
        UserError: it exists and `force` is not given; it exists and is no export, which `force` does not
            delete either; or it cannot be written.
    """
    if folder.resolve() == Path.cwd():
        raise UserError(f"--output {folder} is the folder you are in; choose one to make")
    if folder.exists():
        if not folder.is_dir():
            raise UserError(f"--output {folder} is a file; expected a folder to make")
        if any(folder.iterdir()):
            if not _is_export(folder):
                raise UserError(
                    f"--output {folder} holds files that are not an export; choose another folder"
                )
            if not force:
                raise UserError(
                    f"--output {folder} holds an export already; choose another folder, or add --force"
                )
    check_writable("--output", folder, inside=folder.parent)


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
    ours = {"manifest.json", PLUGINS} | {
        f"{part}.{kind}" for part in ("encoder", "decoder", "decoder.meta") for kind in kinds
    }
    return (folder / "manifest.json").is_file() and all(path.name in ours for path in folder.iterdir())


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if the block ends well, and is gone otherwise.

    Args:
        folder: replaced if it exists; until the very end it stays as it was.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o777 & ~_umask())
        if folder.exists():
            old = staging.with_suffix(".old")
            folder.rename(old)
            try:
                staging.rename(folder)
            except BaseException:  # an interrupt too: what was there comes back
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
