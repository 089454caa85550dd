"""Messages are one line that a terminal shows as it is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.errors import UserError, printable

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(text=ANY_TEXT)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    for shown in (printable(text), str(UserError(text))):
        assert all(one.isprintable() or unicodedata.category(one) == "Zs" for one in shown)
        shown.encode("utf-8")


@given(text=st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs"))))
def test_letters_of_every_script_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2K\rerror: forged", "\\x1b[2K error: forged"),
        ("two\nlines", "two lines"),
        ("photo\u202egpj.exe", "photo\\u202egpj.exe"),
        ("half \ud800", "half \\ud800"),
        ("Aufnahme 10.30\u202fUhr.png", "Aufnahme 10.30\u202fUhr.png"),
    ],
)
def test_messages(text: str, shown: str) -> None:
    assert str(UserError(text)) == shown
