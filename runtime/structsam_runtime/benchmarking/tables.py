"""Result files: numbers as JSON, and a table as Markdown beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, printable
from ..files import check_output, whole_file


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table without a final newline; the first row is the header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(map(printable, cells)) + " |" for cells in lines)


def check_result(output: Path) -> None:
    """Check before a measurement that its result file can be written.

    Raises:
        UserError: the name does not end in .json, or as in `check_output`.
    """
    if output.suffix != ".json":
        raise UserError(f"--output {output} does not end in .json; the table is written beside it as .md")
    check_output(output)


def write_result(output: Path, content: Any, table: str) -> None:
    """Write a result as JSON, and its table beside it as .md."""
    with whole_file(output) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")
    with whole_file(output.with_suffix(".md")) as part:
        part.write_text(table)
