"""A result is numbers and the table made from them, or a one-line refusal before anything is measured."""

import json
from pathlib import Path

import pytest

from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.errors import UserError


def test_a_table_is_markdown() -> None:
    assert markdown([["a", "b"], ["1", ""]]) == "| a | b |\n| --- | --- |\n| 1 |  |"


def test_a_cell_is_text() -> None:
    assert markdown([["a"], ["x\x1b[2J\n| forged"]]).splitlines()[2:] == [r"| x\x1b[2J\n| forged |"]


def test_the_table_is_written_beside_the_numbers(tmp_path: Path) -> None:
    write_result(tmp_path / "x.json", {"n": 1}, "| n |\n")
    assert json.loads((tmp_path / "x.json").read_text()) == {"n": 1}
    assert (tmp_path / "x.md").read_text() == "| n |\n"


@pytest.mark.parametrize(
    ("name", "message"), [("x.csv", "x.csv does not end in .json"), ("none/x.json", "there is no folder")]
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_result(tmp_path / name)
