"""Folders that appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from structsam_export.staging import check_folder, staged
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
        assert folder.parent == tmp_path, "beside, so that renaming is one step"
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
        if self.suffix == ".partial" and target.name == "made":
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


def test_two_exports_to_one_folder_do_not_share_their_staging(tmp_path: Path) -> None:
    with staged(tmp_path / "made") as one, staged(tmp_path / "made") as other:
        assert one != other


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


def test_an_export_with_plugins_or_another_decoder_is_one_too(tmp_path: Path) -> None:
    folder = an_export(tmp_path / "made")
    for name in ("encoder.engine", "plugins.so", "decoder.meta.onnx"):
        (folder / name).write_text("old")
    check_folder(folder, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(UserError, match="holds files that are not an export; choose another folder"):
        check_folder(tmp_path, force)


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
