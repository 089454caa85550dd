"""Measurements that survive the process that made them."""

from pathlib import Path

import pytest

from structsam_export.tuning.notebook import Notebook, key
from structsam_runtime.errors import UserError


def test_what_was_noted_is_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    book = Notebook(path)
    book["a"] = [0.1, [1.0]]
    assert book.get("b", lambda: 2) == 2
    again = Notebook(path)
    assert again["a"] == [0.1, [1.0]]
    assert again.get("b", lambda: pytest.fail("measured twice")) == 2
    assert "c" not in again


@pytest.mark.parametrize("length", [1, 5, 12])
def test_a_line_that_was_being_written_is_forgotten(tmp_path: Path, length: int) -> None:
    path = tmp_path / "notes.jsonl"
    Notebook(path)["whole"] = 1
    with path.open("a") as file:
        file.write('{"half": 0.1234}'[:length])
    book = Notebook(path)
    assert "half" not in book
    book["next"] = 2
    assert (Notebook(path)["whole"], Notebook(path)["next"]) == (1, 2)


def test_keys_tell_values_and_kinds_apart() -> None:
    keys = [key("block", 1, "a"), key("block", "1", "a"), key("block", 1), key("time", 1, "a")]
    assert len(set(keys)) == len(keys)
    assert key("block", 1, {"a": 1, "b": 2}) == key("block", 1, {"b": 2, "a": 1})


def test_without_a_file_they_stay_in_memory() -> None:
    book = Notebook()
    book["a"] = 1
    assert book["a"] == 1


@pytest.mark.parametrize("content", ["{\n", "3\n", "\x00\xff\n", "[[1]]\n"])
def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot be read: .*; remove it, or choose another --output"):
        Notebook(path)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        Notebook(tmp_path / "none" / "notes.jsonl")["a"] = 1
