"""What an evaluation leaves on disk: whole lines, resumable anywhere, and never of two different things."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.results import FoundObject, FoundObjects, Results, TrueObject, TrueObjects

WHAT = {"arch": "vit_b", "image_size": 1024, "weights": "sam.pth abc", "machine": "a CPU, 2 cores"}
FACTS = {"label": "StructSAM", "rate": 0.1 + 0.2, "gmac": 321.27}  # a float that no short decimal is
SHARES = st.floats(0, 1)
MASKS = st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=20)  # pycocotools' alphabet
NAMES = st.text(min_size=1, max_size=8)
FOUND = st.builds(
    FoundObjects,
    NAMES,
    st.none() | st.floats(1e-6, 1e3),
    st.none() | st.integers(0, 2**40),
    st.lists(st.builds(FoundObject, MASKS, st.floats(-2, 2), SHARES, SHARES, SHARES, SHARES), max_size=3).map(
        tuple
    ),
)
SIZES = st.tuples(st.integers(1, 9999), st.integers(1, 9999))
TRUTHS = st.builds(
    TrueObjects,
    NAMES,
    st.none() | SIZES,
    st.lists(st.builds(TrueObject, st.integers(0, 999), MASKS, st.booleans(), st.booleans()), max_size=3).map(
        tuple
    ),
)


def found(picture: str) -> FoundObjects:
    return FoundObjects(picture, 0.5, None, (FoundObject("0", 0.9, 0.8, 0.7, 0.6, 1.0),))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of the dataset `one`, begun."""
    made = Results(tmp_path / "one")
    made.begin(["a", "b"], WHAT, {"x": FACTS})
    return made


@given(lines=st.lists(FOUND, max_size=4), truths=st.lists(TRUTHS, max_size=4))
def test_results_are_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, lines: list[FoundObjects], truths: list[TrueObjects]
) -> None:
    results = Results(tmp_path_factory.mktemp("results"))
    for line in lines:
        results.add("x", line)
    for truth in truths:
        results.add_truth(truth)
    assert results.found("x") == {line.picture: line for line in lines}
    assert results.truth() == {truth.picture: truth for truth in truths}
    assert results.found("y") == {}


def test_a_truncated_file_is_continued_after_its_last_complete_line(results: Results) -> None:
    path = results.folder / "x.jsonl"
    for picture in "abc":
        results.add("x", found(picture))
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        left = "abc"[: sum(end <= length for end in ends)]
        assert "".join(results.found("x")) == left
        results.add("x", found("d"))
        assert "".join(results.found("x")) == f"{left}d"
        assert path.read_bytes().count(b"\n") == len(left) + 1


def test_a_long_file_is_not_read_to_append_to_it(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every picture would read all results before it."""
    results.add("x", found("a"))
    path = results.folder / "x.jsonl"
    read: list[int] = []
    opened = Path.open

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def read(self) -> bytes:
            content = self.file.read()
            read.append(len(content))
            return content

    monkeypatch.setattr(Path, "open", lambda self, *mode: Counting(opened(self, *mode)))
    results.add("x", found("b"))
    monkeypatch.undo()
    assert read == [1]
    assert list(results.found("x")) == ["a", "b"]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"picture": "b", "objects": [{}]}', "null"])
def test_a_broken_line_is_named_and_can_be_removed(results: Results, line: str) -> None:
    path = results.folder / "x.jsonl"
    results.add("x", found("a"))
    with path.open("a") as file:
        file.write(f"{line}\n")
    results.add("x", found("c"))
    with pytest.raises(UserError, match=r"line 2 of .*x\.jsonl is broken; remove it and run again"):
        results.found("x")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    assert list(results.found("x")) == ["a", "c"]


def test_a_run_can_be_continued_with_more_models(results: Results) -> None:
    results.begin(["a", "b", "c"], WHAT, {"x": FACTS})
    results.begin(["a"], WHAT, {"y": FACTS})
    assert results.run() == {"what": WHAT, "models": {"x": FACTS, "y": FACTS}}
    assert [path.name for path in results.folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("what", "models", "message"),
    [
        (
            {"weights": "mine.pth def"},
            {},
            "one has results with the weights sam.pth abc, and this run has mine.pth def; choose another",
        ),
        ({"machine": "a GPU"}, {}, "the machine a CPU, 2 cores, and this run has a GPU"),
        ({}, {"x": {**FACTS, "gmac": 1.0}}, "the gmac of x 321.27, and this run has 1.0"),
        ({}, {"x": {**FACTS, "runner": "cpu"}}, "the runner of x None, and this run has cpu"),
    ],
)
@pytest.mark.parametrize("dataset", ["one", "two"])
def test_results_of_something_else_are_refused_and_kept(
    results: Results, what: dict[str, Any], models: dict[str, Any], message: str, dataset: str
) -> None:
    """Also those of another dataset beside it, whose numbers would stand in the same row."""
    before = (results.folder / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        Results(results.folder.parent / dataset).begin(["a"], {**WHAT, **what}, models)
    assert message in str(error.value)
    assert (results.folder / "run.json").read_bytes() == before
    assert [path.name for path in results.folder.parent.iterdir()] == ["one"]


def test_another_dataset_in_another_folder_has_its_own_pictures(results: Results) -> None:
    results.add_truth(TrueObjects("a", None, ()))
    Results(results.folder.parent / "two").begin(["c"], WHAT, {"x": FACTS})
    with pytest.raises(UserError, match="pictures that are not in this dataset, such as a; choose another"):
        results.begin(["c"], WHAT, {})


def test_a_broken_run_is_one_line(results: Results) -> None:
    (results.folder / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read: .*; choose another --output"):
        results.begin(["a"], WHAT, {})


def test_a_folder_that_cannot_be_written_is_one_line(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/one: Not a directory"):
        Results(tmp_path / "file" / "one").begin([], WHAT, {})
    shutil.rmtree(results.folder)
    with pytest.raises(UserError, match=r"cannot write .*x\.jsonl: No such file"):
        results.add("x", found("a"))


def test_only_objects_with_pixels_that_are_no_crowd_are_prompted() -> None:
    one = TrueObject(1, "0", crowd=False, empty=False)
    assert one.prompted
    assert not replace(one, crowd=True).prompted
    assert not replace(one, empty=True).prompted


def test_lines_are_plain_json(results: Results) -> None:
    results.add("x", found("ü"))
    (line,) = (results.folder / "x.jsonl").read_bytes().splitlines()
    assert json.loads(line)["objects"][0]["score"] == 0.9
    assert line.isascii()
