"""The record of a run: bounded in time, on disk after every row, without folders of the machine."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structsam_export.gpu.page import page
from structsam_export.gpu.record import ROOT, Record, without_folders

NUMBERS = itertools.count()


@pytest.fixture
def minute(head: dict[str, Any], clock: SimpleNamespace, tmp_path: Path) -> Record:
    """A record that has sixty seconds from now on."""
    return Record(tmp_path / "gpu.json", head, 1)


def spend(clock: SimpleNamespace, seconds: float) -> None:
    clock.now += seconds


def test_a_piece_without_time_is_left_out(minute: Record, clock: SimpleNamespace) -> None:
    """Its estimate is all that is known of it."""
    assert minute.attempt("a", "kind", 54, lambda: spend(clock, 10))
    assert not minute.attempt("b", "other", 46, lambda: spend(clock, 1))
    assert minute.content["left_out"] == ["b: needs about 51 s"]
    assert minute.attempt("c", "other", 45, lambda: spend(clock, 1))


def test_the_longest_piece_of_a_kind_takes_the_place_of_the_estimate(
    minute: Record, clock: SimpleNamespace
) -> None:
    minute.attempt("a", "kind", 54, lambda: spend(clock, 4))
    minute.attempt("b", "kind", 54, lambda: spend(clock, 2))
    spend(clock, 49)
    assert minute.attempt("c", "kind", 54, lambda: None), "5 s are left, 4.4 needed"
    spend(clock, 1)
    assert not minute.attempt("d", "kind", 54, lambda: None)


def test_a_reserve_is_kept(minute: Record) -> None:
    minute.reserve = 15
    assert not minute.attempt("a", "kind", 42, lambda: None)
    minute.reserve = 0
    assert minute.attempt("b", "kind", 42, lambda: None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 80), st.integers(0, 80)), max_size=9),
    minutes=st.floats(0, 2),
)
def test_only_a_piece_beyond_all_before_it_ends_late(
    head: dict[str, Any],
    clock: SimpleNamespace,
    tmp_path: Path,
    pieces: list[tuple[str, int, int]],
    minutes: float,
) -> None:
    """Pieces are of a kind, with an estimate and the time that they take."""
    record = Record(tmp_path / f"{next(NUMBERS)}.json", head, minutes)
    longest: dict[str, int] = {}
    for kind, estimate, seconds in pieces:
        due = longest.get(kind, estimate)
        if record.attempt("", kind, estimate, lambda taken=seconds: spend(clock, taken)):
            longest[kind] = max(longest.get(kind, 0), seconds)
            assert record.left >= 0 or seconds > due
        else:
            assert record.left < 1.1 * due


def test_what_raises_is_a_miss_and_the_rest_goes_on(minute: Record, clock: SimpleNamespace) -> None:
    def fail() -> None:
        spend(clock, 8)
        raise ValueError(f'in\n  "{ROOT}/export/structsam_export/a.py", {"x" * 300}')

    assert not minute.attempt("a", "kind", 1, fail)
    (miss,) = minute.content["misses"]
    assert miss.startswith('a: ValueError: in "export/structsam_export/a.py", xxx')
    assert len(miss) == len("a: ") + 200
    spend(clock, 45)
    assert not minute.attempt("b", "kind", 1, lambda: None), "8 s is the longest of its kind"
    assert minute.attempt("c", "other", 1, lambda: None)


def test_an_interrupt_is_not_a_miss(minute: Record) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minute.attempt("a", "kind", 1, interrupt)
    assert not minute.content["misses"]


def test_every_row_is_on_disk_at_once(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    assert not record.output.exists()
    for number in range(3):
        record.add("notes", f"note {number}")
        content = json.loads(record.output.read_text())
        assert content == record.content
        assert content["notes"][-1] == f"note {number}"
        assert record.output.with_suffix(".md").read_text() == page(content)
    assert capsys.readouterr().err == "notes: note 0\nnotes: note 1\nnotes: note 2\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f'File "{ROOT}/export/structsam_export/a.py", line 4',
            'File "export/structsam_export/a.py", line 4',
        ),
        (f"-o {ROOT}/benchmarks/gpu.json", "-o benchmarks/gpu.json"),
        ('File "/opt/python/site-packages/torch/a.py", line 4', 'File "a.py", line 4'),
        ("/var/x1/libstructsam.so: cannot open", "libstructsam.so: cannot open"),
        ("cannot open '/home/me/out/'", "cannot open ''"),
        ("--checkpoint=/home/me/sam.pth", "--checkpoint=sam.pth"),
        ("images/s, 3 / 4, a/b/c", "images/s, 3 / 4, a/b/c"),
        ("see https://pytorch.org/docs/stable/a.html", "see https://pytorch.org/docs/stable/a.html"),
    ],
)
def test_no_folder_of_the_machine_is_named(text: str, told: str) -> None:
    assert without_folders(text) == told
