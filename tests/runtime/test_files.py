"""JSON that people hand over, of every size, depth and encoding."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime import files
from structsam_runtime.errors import UserError
from structsam_runtime.files import JSON_DEPTH, read_json

CONTENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test writes its file."""
    return tmp_path_factory.mktemp("json") / "some.json"


@given(content=CONTENTS, encoding=st.sampled_from(ENCODINGS), ascii_only=st.booleans())
def test_any_encoding_gives_what_was_written(
    path: Path, content: object, encoding: str, ascii_only: bool
) -> None:
    text = json.dumps(content, ensure_ascii=ascii_only)
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    assert read_json(path) == content


@given(data=st.binary(max_size=40) | st.text('{}[]",:0123456789eE+-.\\ \n\x00').map(str.encode))
def test_whatever_it_holds_is_read_or_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        read_json(path)


@pytest.mark.parametrize("bracket", ["[]", '{"a":}'])
@pytest.mark.parametrize("depth", [JSON_DEPTH + 1, 900, 200_000])
def test_depth(path: Path, bracket: str, depth: int) -> None:
    opening, closing = bracket[:-1], bracket[-1]

    def write(levels: int) -> None:
        path.write_text(opening * levels + "1" + closing * levels)

    write(JSON_DEPTH)
    read_json(path)
    write(depth)
    with pytest.raises(UserError, match=r"some\.json cannot be read as JSON: .* more than 32 deep"):
        read_json(path)


@pytest.mark.parametrize("digits", [19, 400, 4301, 50_000])
def test_integers_of_many_digits_are_floats(path: Path, digits: int) -> None:
    path.write_text(f"[{'9' * 18}, -{'9' * 17}, {'9' * digits}, -{'9' * digits}]")
    exact, negative, large, small = read_json(path)
    assert (exact, negative) == (10**18 - 1, 1 - 10**17)
    assert (large, small) == (float("9" * digits), -float("9" * digits))
    assert isinstance(large, float)


def test_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JSON_BYTES", 2**20)
    path.write_text(f'"{"a" * (2**20 - 2)}"')
    assert len(read_json(path)) == 2**20 - 2
    path.write_text(f'"{"a" * (2**20 - 1)}"')
    with pytest.raises(UserError, match=r"some\.json cannot be read as JSON: it has more than 1 MiB"):
        read_json(path)


def test_a_key_that_is_given_twice_is_named(path: Path) -> None:
    path.write_text('{"a": 1, "\\u001b[2K": 2, "\\u001b[2K": 3}')
    with pytest.raises(UserError, match=r"it gives '\\x1b\[2K' twice"):
        read_json(path)


def test_what_is_no_file(path: Path) -> None:
    with pytest.raises(UserError, match=r"^no file .*none\.json; expected boxes as JSON$"):
        read_json(path.with_name("none.json"), "boxes as JSON")
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    for other in (path.parent, pipe):
        with pytest.raises(UserError, match="it is not a regular file"):
            read_json(other)
    with pytest.raises(UserError, match=r"cannot be read as JSON: .*File name too long"):
        read_json(path.with_name("n" * 300))
