"""Commits of which processes are killed and interrupted at every step."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from structsam_runtime.commit import Box, ChangedError, recover

PROGRAM = """
    import json, os, signal, sys
    from pathlib import Path
    from structsam_runtime import commit

    STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open")
    how, cases = sys.argv[1], json.loads(sys.argv[2])
    left, armed = 0, False

    def count(event, arguments):
        global left
        if armed and event in STEPS:
            left -= 1
            if left < 0 and how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if left == -1:
                raise KeyboardInterrupt

    def write(folder, names, what):
        for name in names:
            if name == "manifest.json":
                (folder / name).write_text(what)
            else:
                (folder / name).mkdir()
                (folder / name / "file").write_text(what)

    def work():
        with commit.Box(base, case["label"], case["names"]) as box:
            last = case.get("last", [])
            write(box.new, [name for name in case["new"] if name not in last], "new")
            write(box.last, last, "new")
            box.commit()

    def seen():
        found = {str(path.relative_to(base)): path.read_text() for path in base.rglob("*") if path.is_file()}
        return {path: text for path, text in found.items() if not path.startswith(".")}

    def boxes():
        return [path.name for path in base.iterdir() if path.name.startswith(".")]

    os.fsync = lambda handle: None  # time that a killed process has no use for
    sys.addaudithook(count)
    for name, case in cases.items():
        for step in range(1000):
            base = Path(sys.argv[3]) / f"{name} {step}"
            base.mkdir()
            write(base, case["old"], "old")
            child = os.fork()
            if not child:
                left, armed = step, True
                try:
                    work()
                except KeyboardInterrupt:
                    os._exit(130)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            told = {"case": name, "status": status, "then": seen(), "boxes": boxes()}
            commit.recover(base)
            print(json.dumps(told | {"recovered": seen(), "left": boxes()}))
            if status == 0:
                break
"""
MODELS = ["m", "m_d", "m_e"]
CASES = {
    "new": {"label": "made", "names": ["made"], "old": [], "new": ["made"]},
    "replaced": {"label": "made", "names": ["made"], "old": ["made"], "new": ["made"]},
    "three": {"label": "m", "names": MODELS, "old": MODELS, "new": MODELS},
    "three new": {"label": "m", "names": MODELS, "old": [], "new": MODELS},
    "inside": {
        "label": "made",
        "names": None,
        "old": ["decoder", "encoder", "engine", "manifest.json"],
        "new": ["decoder", "encoder", "manifest.json"],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["kill", "interrupt"])
def how(request: pytest.FixtureRequest) -> str:
    """How a commit ends."""
    return request.param


@pytest.fixture(scope="module")
def ends(how: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a folder held when a commit ended before each of its steps, and what the next process made of it.

    A stand-in for an export, in one process that forks for every step: milliseconds each.
    """
    arguments = [how, json.dumps(CASES | REPLACED_LAST), str(tmp_path_factory.mktemp("commits"))]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


REPLACED_LAST = {
    "engines": {
        "label": "engines",
        "names": ["decoder", "encoder", "plugins"],
        "old": ["decoder", "encoder", "graph", "manifest.json", "plugins"],
        "new": ["decoder", "encoder", "manifest.json"],
        "last": ["manifest.json"],
    },
    "first engines": {
        "label": "engines",
        "names": ["decoder", "encoder", "plugins"],
        "old": ["graph", "manifest.json"],
        "new": ["decoder", "encoder", "manifest.json"],
        "last": ["manifest.json"],
    },
}  # fmt: skip


def whole(names: list[str], what: str) -> dict[str, str]:
    return {name if name == "manifest.json" else f"{name}/file": what for name in names}


@pytest.mark.parametrize("name", CASES)
def test_whatever_ends_a_commit_its_folder_is_the_old_one_or_the_new_one(
    how: str, ends: list[dict[str, Any]], name: str
) -> None:
    case, mine = CASES[name], [end for end in ends if end["case"] == name]
    old, new = whole(case["old"], "old"), whole(case["new"], "new")
    assert [end["status"] for end in mine[:-1]] == [130 if how == "interrupt" else -9] * (len(mine) - 1)
    assert len(mine) > 12, "as many steps as that"
    for end in mine:
        assert len(set(end["then"].values())) <= 1, "never the old and the new together"
        last = {"manifest.json", f"{case['label']}/file"} & end["then"].keys()
        assert not last or end["then"] in (old, new), "what makes the others count is never alone"
        assert end["recovered"] in (old, new)
        assert end["left"] == []
        if how == "interrupt":
            assert end["then"] in (old, new), "an interrupt waits for no other process to put things right"
    assert mine[0]["recovered"] == old
    done = {"then": new, "boxes": [], "recovered": new, "left": []}
    assert mine[-1] == {"case": name, "status": 0, **done}


@pytest.mark.parametrize("name", REPLACED_LAST)
def test_the_manifest_of_a_folder_is_there_at_every_step(
    how: str, ends: list[dict[str, Any]], name: str
) -> None:
    case, mine = REPLACED_LAST[name], [end for end in ends if end["case"] == name]
    old = whole(case["old"], "old")
    new = whole(["graph"], "old") | whole(case["new"], "new")
    assert len(mine) > 12, "as many steps as that"
    for end in mine:
        then = end["then"]
        assert then["graph/file"] == "old"
        assert then["manifest.json"] == "old" or then == new, "a new one is never ahead of what it lists"
        assert end["recovered"] in (old, new)
        assert end["left"] == []
        if how == "interrupt":
            assert then in (old, new)
    assert mine[0]["recovered"] == old
    assert mine[-1]["then"] == new


def fill(box: Box, text: str = "new") -> None:
    (box.new / "made").mkdir()
    (box.new / "made" / "file").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def appear(base: Path) -> None:
    (base / "made").mkdir()
    (base / "made" / "precious").write_text("precious")


def add(base: Path) -> None:
    (base / "made" / "precious").write_text("precious")


def edit(base: Path) -> None:
    (base / "made" / "file").write_text("mine")


def replace(base: Path) -> None:
    (base / "made" / "file").unlink()
    (base / "made" / "file").write_text("old")


def put_a_file(base: Path) -> None:
    (base / "made").write_text("precious")


@pytest.mark.parametrize(
    ("old", "change"),
    [(False, appear), (False, put_a_file), (True, add), (True, edit), (True, replace)],
)
def test_what_changed_in_the_meantime_stays(tmp_path: Path, old: bool, change: Any) -> None:
    if old:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("old")
    with Box(tmp_path, "made", ["made"]) as box:
        fill(box)
        change(tmp_path)
        before = contents(tmp_path / "made") if (tmp_path / "made").is_dir() else None
        with pytest.raises(ChangedError):
            box.commit()
        assert contents(box.new) == {"made/file": "new"}, "what was made is still there to be kept"
    assert before is None or contents(tmp_path / "made") == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_comes_in_the_last_moment_stays_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last look at the folder, and before the new entries are moved in."""
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if target.name == "ready":
            appear(tmp_path)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with Box(tmp_path, "made", ["made"]) as box:
        fill(box)
        with pytest.raises(ChangedError):
            box.commit()
        assert contents(box.new) == {"made/file": "new"}
    assert contents(tmp_path) == {"made/precious": "precious"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with Box(tmp_path, "made", ["made"]) as box:
        fill(box)
        box.commit()
    assert contents(tmp_path) == {"made/file": "new"}


def test_boxes_of_living_processes_stay(tmp_path: Path) -> None:
    with Box(tmp_path, "made", ["made"]) as box:
        fill(box)
        recover(tmp_path)
        box.commit()
    assert contents(tmp_path) == {"made/file": "new"}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (".made.abcdefgh.partial", ["precious"]),
        (".made.abcdefgh.partial", [".structsam", "new/file", "precious"]),
        (".made.abcdefgh.partial", ["new/file"]),
        (".made.partial", [".structsam", "new/file"]),
        ("made.abcdefgh.partial", [".structsam", "new/file"]),
    ],
)
def test_only_what_is_a_box_in_everything_is_swept(tmp_path: Path, name: str, files: list[str]) -> None:
    for file in files:
        (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).write_text("precious")
    before = contents(tmp_path)
    recover(tmp_path)
    assert contents(tmp_path) == before


def test_a_link_is_no_box(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "new").mkdir(parents=True)
    (tmp_path / "elsewhere" / ".structsam").touch()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / ".made.abcdefgh.partial").symlink_to(tmp_path / "elsewhere")
    recover(tmp_path / "base")
    assert (tmp_path / "elsewhere" / ".structsam").exists()


@pytest.mark.parametrize("name", ["new", "ready", "old"])
def test_nothing_is_moved_through_a_link(tmp_path: Path, name: str) -> None:
    """A box that someone else made up, in a folder that several users share."""
    (tmp_path / "mine" / "made").mkdir(parents=True)
    box = tmp_path / "base" / ".made.abcdefgh.partial"
    box.mkdir(parents=True)
    (box / ".structsam").touch()
    (box / name).symlink_to(tmp_path / "mine")
    recover(tmp_path / "base")
    assert (tmp_path / "mine" / "made").is_dir()
    assert [path.name for path in (tmp_path / "base").iterdir()] == [box.name]


def test_boxes_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = tmp_path / ".made.abcdefgh.partial"
    (box / "new").mkdir(parents=True)
    (box / ".structsam").touch()
    monkeypatch.setattr(os, "geteuid", lambda: box.stat().st_uid + 1)
    recover(tmp_path)
    assert box.is_dir()
    monkeypatch.undo()
    recover(tmp_path)
    assert not box.exists()


def test_a_dead_box_whose_entries_were_made_anew_loses_nothing(tmp_path: Path) -> None:
    box = tmp_path / ".made.abcdefgh.partial"
    for folder, text in ((box / "old" / "made", "old"), (tmp_path / "made", "anew")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    (box / ".structsam").touch()
    before = contents(tmp_path)
    recover(tmp_path)
    assert contents(tmp_path) == before


def test_what_is_committed_is_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"move {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    with Box(tmp_path, "made", ["made"]) as box:
        fill(box)
        box.commit()
    assert sorted(done[:3]) == ["sync file", "sync made", "sync new"]
    assert done[3:] == ["move ready", "move made", f"sync {tmp_path.name}"]
