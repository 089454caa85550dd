"""The palette, as pictures and plots take it."""

from structsam_runtime.colours import BLACK, LINES, MASKS, VERMILION, code


def test_colours_are_written_as_matplotlib_takes_them() -> None:
    assert (code(VERMILION), code(BLACK)) == ("#D55E00", "#000000")


def test_colours_that_take_turns_differ() -> None:
    for colours in (MASKS, LINES):
        assert len(set(colours)) == len(colours)
