"""What a person sees while an export or an engine is being made."""

import io
import re

import pytest
from rich.console import Console

from structsam_runtime.progress import Progress


@pytest.mark.parametrize("terminal", [False, True])
def test_names_from_files_are_text(terminal: bool) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, color_system=None))
    with progress.step("load [bold]x[/]") as notes:
        notes.append("sam[red].pth\x1b]0;title\x07\nerror: forged\r\u202e")
    last = out.getvalue().splitlines()[-1]
    assert "load [bold]x[/]" in last
    assert last.endswith(r"  sam[red].pth\x1b]0;title\x07\nerror: forged\r\u202e")


def test_phases_are_bars_one_inside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With names from a library, which may be anything and may end twice."""
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, color_system=None, width=100))
    with progress.phases("build encoder") as (notes, phases):
        phases.start("Building engine", None, 6)
        phases.start("Timing [bold]x[/]\x1b]0;title\x07", "Building engine", 3)
        phases.advance("Timing [bold]x[/]\x1b]0;title\x07", 2)
        phases.advance("Building engine", 3)
        phases._bars.refresh()
        phases.finish("Timing [bold]x[/]\x1b]0;title\x07")
        phases.finish("Timing [bold]x[/]\x1b]0;title\x07")
        phases.advance("of nobody", 1)
        notes.append("3 MB")
    shown = out.getvalue()
    assert re.search(r"build encoder  .* 50%", shown)
    assert re.search(r"  Timing \[bold\]x\[/\]\\x1b\]0;title\\x07 .* 67%", shown)
    assert "Building engine" not in shown, "the outermost is the step itself"
    assert shown.splitlines()[-1].endswith("  3 MB")


def test_phases_are_quiet_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=100)).phases("build encoder") as (_, phases):
        phases.start("Building engine", None, 6)
        phases.advance("Building engine", 3)
        phases.finish("Building engine")
    assert re.fullmatch(r"✓ build encoder +0\.0 s\n", out.getvalue())
