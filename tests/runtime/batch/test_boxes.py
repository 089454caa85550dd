"""Files of boxes: how they are written, how they spell the names of pictures, and which boxes are wrong."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.batch.boxes import match, read_boxes, sound_boxes, told
from structsam_runtime.errors import UserError
from structsam_runtime.predict.image import Frame

FILE, FOLDER = Path("boxes.json"), Path("images")
FRAME = Frame.of(480, 640, 1024)
NAMES = st.text(st.characters(categories=("L", "M", "N", "Zs")), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def spelled(name: str) -> dict[str, Any]:
    return {name: [[1, 2, 3, 4]]}


@given(path=PATHS, form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), windows=st.booleans())
def test_a_name_is_found_in_any_form(path: str, form: Any, windows: bool) -> None:
    written = unicodedata.normalize(form, path).replace("/", "\\" if windows else "/")
    assert match(spelled(written), [path, "other.jpg"], FILE, FOLDER) == spelled(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_as_other_programs_write_it(tmp_path: Path, encoding: str) -> None:
    content = {"stra\u00dfe\\u\u0308ber.jpg": {"boxes": [[1, 2, 3, 4]]}}
    (tmp_path / "boxes.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    found = match(read_boxes(tmp_path / "boxes.json"), ["stra\u00dfe/\u00fcber.jpg"], FILE, FOLDER)
    assert found == spelled("stra\u00dfe/\u00fcber.jpg")


def test_exact_names_go_before_similar_ones() -> None:
    pictures = ["u\u0308.jpg", "\u00fc.jpg", "a\\b.jpg", "a/b.jpg", "x\u00b2.jpg", "x2.jpg"]
    for name in pictures:
        assert match(spelled(name), pictures, FILE, FOLDER) == spelled(name)
    assert match(spelled(".\\a\\b.jpg"), ["a/b.jpg"], FILE, FOLDER) == spelled("a/b.jpg")


@pytest.mark.parametrize(
    ("boxes", "pictures", "message"),
    [
        (spelled("a.jpg"), ["b.jpg"], "names 1 pictures that images lacks, such as a.jpg"),
        (spelled("A.jpg"), ["a.jpg"], "names 1 pictures that images lacks, such as A.jpg"),
        (
            spelled("u\u0308\u0323.jpg"),
            ["\u00fc\u0323.jpg", "\u1ee5\u0308.jpg"],
            "images has 2 such",
        ),
        (spelled("\u00fc.jpg") | spelled("u\u0308.jpg"), ["\u00fc.jpg"], "names \u00fc.jpg twice"),
        (
            spelled("a/b.jpg") | spelled("a\\b.jpg"),
            ["a/b.jpg"],
            "names a/b.jpg twice; put its boxes",
        ),
        (spelled("n" * 5000), ["a.jpg"], r"such as n{200}$"),
        (spelled("\x1b[2K.jpg"), ["a.jpg"], r"such as \\x1b\[2K\.jpg$"),
    ],
)
def test_names_that_are_refused(boxes: dict[str, Any], pictures: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match(boxes, pictures, FILE, FOLDER)


def test_a_file_with_one_box_that_is_right_is_read(tmp_path: Path) -> None:
    content = {"a.jpg": {"boxes": [[1, 2, 3]]}, "b.jpg": {"boxes": [[1, 2, 3, 4], "box"]}}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    assert read_boxes(tmp_path / "boxes.json") == {name: one["boxes"] for name, one in content.items()}


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(
                [[700, 0, 800, 9], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [9, 9, 1, 1], None, "box", {}]
                + [[0, 0, value, 9] for value in (float("nan"), float("inf"), 1e308, 10**400, 2e9)]
            ),
        )
    )
)
def test_wrong_boxes_are_told_apart(given_boxes: list[tuple[bool, Any]]) -> None:
    boxes = [[1, 2, 3, 4.5] if right else wrong for right, wrong in given_boxes]
    rights = sum(right for right, _ in given_boxes)
    if boxes and not rights:
        with pytest.raises(UserError):
            sound_boxes(boxes, FRAME)
        return
    sound, errors = sound_boxes(boxes, FRAME)
    assert sound == [[1, 2, 3, 4.5]] * rights
    assert list(errors) == [number for number, (right, _) in enumerate(given_boxes, 1) if not right]
    line = told(errors, boxes)
    assert (line is None) == (not errors)
    assert line is None or line.startswith(f"{len(errors)} of {len(boxes)} boxes have no mask: box ")
