"""What a person sees while an export is being made."""

import io

import pytest
from rich.console import Console

from structsam_export.progress import Progress


@pytest.mark.parametrize("terminal", [False, True])
def test_names_from_files_are_text(terminal: bool) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, color_system=None))
    with progress.step("load [bold]x[/]") as notes:
        notes.append("sam[red].pth\x1b]0;title\x07\nerror: forged\r\u202e")
    last = out.getvalue().splitlines()[-1]
    assert "load [bold]x[/]" in last
    assert last.endswith(r"  sam[red].pth\x1b]0;title\x07\nerror: forged\r\u202e")
