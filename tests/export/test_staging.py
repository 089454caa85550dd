"""Folders that appear whole or not at all."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from structsam_export.staging import check_folder, disk, staged
from structsam_runtime.errors import UserError


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def an_export(folder: Path) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text("old")
    (folder / "encoder.onnx").write_text("old")
    return folder


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    with staged(tmp_path / "made") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "made").exists()
        assert folder.parents[2] == tmp_path, "beside, so that renaming is one step"
    assert contents(tmp_path) == {"made/file": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_remains_when_it_does_not(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    if existing:
        an_export(tmp_path / "made")
    before = contents(tmp_path)

    def fail() -> None:
        with staged(tmp_path / "made") as folder:
            (folder / "file").write_text("new")
            (folder / "below").mkdir()
            (folder / "below" / "file").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == existing


def test_an_old_export_is_replaced_whole(tmp_path: Path) -> None:
    an_export(tmp_path / "made")
    with staged(tmp_path / "made") as folder:
        (folder / "manifest.json").write_text("new")
        assert contents(tmp_path / "made") == {"manifest.json": "old", "encoder.onnx": "old"}
    assert contents(tmp_path) == {"made/manifest.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_old_export_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two renames fails, as when the disk or the file system gives up between them."""
    an_export(tmp_path / "made")
    before, rename = contents(tmp_path), Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if self.parent.name == "ready" and target == tmp_path / "made":
            raise OSError("given up")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(OSError, match="given up"), staged(tmp_path / "made") as folder:
        (folder / "manifest.json").write_text("new")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_folder_has_the_permissions_of_any_other(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with staged(tmp_path / "made"):
            pass
        assert os.umask(mask) == mask, "reading the mask puts it back"
        (tmp_path / "other").mkdir()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "other")}
    assert modes == {0o777 & ~mask}


@pytest.mark.parametrize("existing", [False, True])
def test_the_second_of_two_exports_to_one_folder_is_told_and_kept(tmp_path: Path, existing: bool) -> None:
    if existing:
        an_export(tmp_path / "made")
    (tmp_path / "made-2").mkdir()  # taken
    second = staged(tmp_path / "made")
    later = second.__enter__()
    with staged(tmp_path / "made") as earlier:
        assert later != earlier
        (earlier / "file").write_text("first")
    (later / "file").write_text("second")
    with pytest.raises(UserError, match=r"made changed .* the new export is in .*made-3$"):
        second.__exit__(None, None, None)
    assert contents(tmp_path) == {"made/file": "first", "made-3/file": "second"}


def mounted(monkeypatch: pytest.MonkeyPatch, folder: Path, known: bool) -> None:
    """Let a folder behave like a mount point; `known` is whether it can be told from its number."""
    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if folder in (self, target):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    monkeypatch.setattr(os.path, "ismount", lambda path: known and path == folder)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("existing", [False, True])
def test_a_mount_point_is_written_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, existing: bool
) -> None:
    volume = an_export(tmp_path / "made") if existing else tmp_path / "made"
    volume.mkdir(exist_ok=True)
    mounted(monkeypatch, volume, known)
    check_folder(volume, force=True)
    with staged(volume) as folder:
        assert (folder.parents[1] == volume) == known, "on its own file system if that is known"
        (folder / "manifest.json").write_text("new")
        (folder / "encoder.onnx").write_text("new")
        assert not existing or (volume / "encoder.onnx").read_text() == "old"
        check_folder(volume, force=True)  # the box inside is no file of the user's
    assert contents(tmp_path) == {"made/manifest.json": "new", "made/encoder.onnx": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_appears_in_a_mount_point_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = an_export(tmp_path / "made")
    mounted(monkeypatch, volume, known=True)
    volume_is_staged = staged(volume)
    (volume_is_staged.__enter__() / "manifest.json").write_text("new")
    (volume / "precious").write_text("precious")
    with pytest.raises(UserError, match=r"the new export is in .*/made/made-2$"):
        volume_is_staged.__exit__(None, None, None)
    assert contents(volume) == {
        "manifest.json": "old", "encoder.onnx": "old", "precious": "precious", "made-2/manifest.json": "new",
    }  # fmt: skip


NAMESPACE = ["unshare", "--mount", "--map-root-user"]
MOUNT = """
    mount -t tmpfs none "$1/volume"
    mount --bind "$1/folder" "$1/bound"
    for made in volume bound; do "$0" -c "$2" "$1/$made" && ls -A "$1/$made"; done
"""
INTO = """
import pathlib, sys
from structsam_export.staging import staged
with staged(pathlib.Path(sys.argv[1])) as folder:
    (folder / "manifest.json").touch()
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], check=False).returncode != 0,
    reason="mounting needs user namespaces",
)
def test_volumes_are_written_inside(tmp_path: Path) -> None:
    """The same with what the kernel mounts: another file system, and a folder of the same one."""
    for name in ("volume", "folder", "bound"):
        (tmp_path / name).mkdir()
    command = [*NAMESPACE, "sh", "-c", MOUNT, sys.executable, str(tmp_path), INTO]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "manifest.json\n" * 2, "")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.ENOENT])
def test_an_export_that_cannot_be_written_is_one_line(tmp_path: Path, code: int) -> None:
    told = rf"--output {tmp_path}/made cannot be written: {os.strerror(code)}; nothing was written"
    with pytest.raises(UserError, match=told), disk(tmp_path / "made"), staged(tmp_path / "made"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_an_export_whose_folders_are_deleted_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="No such file"), disk(out / "made"), staged(out / "made"):
        shutil.rmtree(out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_new_or_an_empty_folder_is_fine(tmp_path: Path, force: bool) -> None:
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", force)
    check_folder(tmp_path / "new" / "deep", force)
    assert not (tmp_path / "new" / "deep").exists()
    assert list((tmp_path / "new").iterdir()) == [], "no trace of the attempt to write"


def test_an_export_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = an_export(tmp_path / "made")
    with pytest.raises(UserError, match=r"holds an export already; .* add --force$"):
        check_folder(folder, force=False)
    check_folder(folder, force=True)
    assert contents(folder) == {"manifest.json": "old", "encoder.onnx": "old"}


def test_an_export_with_plugins_another_decoder_or_a_reference_is_one_too(tmp_path: Path) -> None:
    folder = an_export(tmp_path / "made")
    for name in ("encoder.engine", "plugins.so", "decoder.meta.onnx", "reference.npz"):
        (folder / name).write_text("old")
    check_folder(folder, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(UserError, match="holds files that are not an export; choose another folder"):
        check_folder(tmp_path, force)


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx"])
def test_a_manifest_alone_may_be_that_of_another_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match="holds files that are not an export"):
        check_folder(tmp_path, force=True)


def test_a_folder_with_the_name_of_a_file_is_not_ours(tmp_path: Path) -> None:
    folder = an_export(tmp_path / "made")
    (folder / "decoder.onnx").mkdir()
    with pytest.raises(UserError, match="holds files that are not an export"):
        check_folder(folder, force=True)


def test_what_a_dead_export_left_is_put_right_before_anything_is_refused(tmp_path: Path) -> None:
    box = tmp_path / ".made.abcdefgh.partial"
    (box / "old").mkdir(parents=True)
    (box / ".structsam").touch()
    an_export(box / "old" / "made")
    with pytest.raises(UserError, match="holds an export already"):
        check_folder(tmp_path / "made", force=False)
    assert contents(tmp_path) == {"made/manifest.json": "old", "made/encoder.onnx": "old"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file; expected a folder to make"):
        check_folder(tmp_path / "file", force)


@pytest.mark.parametrize("below", ["made", "deep/made"])
def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another folder"):
        check_folder(tmp_path / "file" / below, force=False)


def test_force_does_not_delete_what_a_user_put_beside_an_export(tmp_path: Path) -> None:
    folder = an_export(tmp_path / "made")
    (folder / "mask.png").write_text("precious")
    with pytest.raises(UserError, match="holds files that are not an export"):
        check_folder(folder, force=True)


def test_the_folder_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the folder you are in"):
        check_folder(Path(), force=False)
