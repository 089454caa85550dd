"""Which files of a folder are pictures, and what is said of the others."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.errors import UserError
from structsam_runtime.pictures import list_pictures


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_what_is_listed_and_what_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for name in ("b.JPG", "a.gif", "deep/er/c.webp", "f.jp2", "x.jpg/d.png", ".hidden.png", ".git/e.png"):
        touch(folder / name)
    for name in ("notes.txt", "list.csv", "README", "a.eps", "deep/a.json"):
        touch(folder / name)
    touch(elsewhere / "far.tif")
    touch(elsewhere / "again.bmp")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "deep/back").symlink_to(folder)
    (folder / "deep/self").symlink_to("self")
    (folder / "twin").symlink_to(folder / "deep/er")
    (folder / "link.png").symlink_to(elsewhere / "again.bmp")
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.jpg")
    found = list_pictures(folder)
    assert found.pictures == [
        *("a.gif", "b.JPG", "deep/er/c.webp", "f.jp2", "link.png", "linked/again.bmp", "linked/far.tif"),
        "x.jpg/d.png",
    ]
    assert found.skipped == {
        "hidden": [".git", ".hidden.png"],
        "not named like pictures": ["README", "a.eps", "list.csv", "notes.txt", "deep/a.json"],
        "links to nothing": ["gone.png", "deep/self"],
        "no regular files": ["pipe.jpg"],
        "links to folders that are listed already": ["twin", "deep/back"],
    }
    found.say()
    assert capsys.readouterr().err.splitlines() == [
        "skipped 2 (hidden): .git, .hidden.png",
        "skipped 5 (not named like pictures): README, a.eps, list.csv and 2 more",
        "skipped 2 (links to nothing): gone.png, deep/self",
        "skipped 1 (no regular files): pipe.jpg",
        "skipped 2 (links to folders that are listed already): twin, deep/back",
    ]
    assert found.skips == 12


def test_one_folder_alone(tmp_path: Path) -> None:
    touch(tmp_path / "deep/a.png")
    touch(tmp_path / "b.png")
    found = list_pictures(tmp_path, deep=False)
    assert (found.pictures, found.skipped) == (["b.png"], {"folders": ["deep"]})


def test_a_folder_that_is_not_there_or_that_is_a_link(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*none; expected one with pictures"):
        list_pictures(tmp_path / "none")
    touch(tmp_path / "images/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert list_pictures(tmp_path / "link").pictures == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png")
    touch(tmp_path / "closed/b.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_pictures(tmp_path)
    assert (found.pictures, found.skipped) == (["a.png"], {"folders that cannot be listed": ["closed"]})
    with pytest.raises(UserError, match=r"cannot list .*closed: Permission denied"):
        list_pictures(tmp_path / "closed")


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path / "a\x1b[2Jerror: b\n.txt")
    touch(tmp_path / os.fsdecode(b"\xff.txt"))
    list_pictures(tmp_path).say()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == r"skipped 2 (not named like pictures): a\x1b[2Jerror: b\n.txt, \udcff.txt"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.data())
def test_links_of_any_kind_end_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Six folders one in another or beside it, and links between them: each picture once."""
    root = tmp_path_factory.mktemp("links")
    folders = [root]
    for number in range(1, 6):
        folders.append(data.draw(st.sampled_from(folders)) / str(number))
    for number, folder in enumerate(folders):
        touch(folder / f"{number}.png")
    for number, (place, target) in enumerate(links):
        (folders[place] / f"link{number}").symlink_to(folders[target])
    expected = sorted((folder / f"{n}.png").relative_to(root).as_posix() for n, folder in enumerate(folders))
    found = list_pictures(root)
    assert found.pictures == expected
    assert found.skips == len(links)
