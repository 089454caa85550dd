"""Prompting with the boxes of annotated objects: against a slow reference, once, and in the right order."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime import Predictor
from structsam_runtime.errors import UserError
from structsam_runtime.evaluation import run
from structsam_runtime.evaluation.coco_ap import encode
from structsam_runtime.evaluation.datasets import Annotated, Object
from structsam_runtime.evaluation.metrics import boundary_iou, dice, iou
from structsam_runtime.evaluation.results import UNMERGED, FoundObjects, Results
from structsam_runtime.evaluation.run import agreement, evaluate

Mask = NDArray[np.bool_]
TOLERANCE = 1e-12  # pycocotools divides in another order


@dataclass(frozen=True, kw_only=True)
class Drawn(Annotated):
    """A picture in memory that counts how often it is read."""

    picture: Path = Path("none.png")
    pixels: NDArray[np.uint8]
    drawn: list[Object]
    read: list[str] = field(default_factory=list)

    def image(self) -> NDArray[np.uint8]:
        self.read.append("image")
        return self.pixels

    def _decode(self) -> list[Object]:
        self.read.append("objects")
        return self.drawn


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    """A filled rectangle in a picture of 300 x 451, its last row and column included."""
    mask = np.zeros((300, 451), np.bool_)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


OBJECTS = [
    Object(box(100, 100, 200, 300), 3),
    Object(box(0, 0, 299, 450), 5),
    Object(box(0, 0, 0, 0), 3),  # one pixel, in the corner
    Object(box(0, 0, -1, -1), 3),  # empty
    Object(box(120, 60, 180, 450), 7, crowd=True),
    Object(box(299, 450, 299, 450), 3),
]
PROMPTED = [OBJECTS[index] for index in (0, 1, 2, 5)]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def picture(photos: dict[str, NDArray[np.uint8]]) -> Drawn:
    """A photograph with the objects."""
    return Drawn(name="cat", pixels=photos["chelsea"], drawn=OBJECTS)


@pytest.fixture(scope="module")
def predictor(export_folder: Path) -> Iterator[Predictor]:
    with Predictor.load(export_folder) as opened:
        yield opened


class Stopped:
    """A predictor that must not run."""

    def set_image(self, image: object) -> None:
        raise AssertionError("the encoder ran")


@pytest.fixture
def stopped() -> Any:
    return Stopped()


def drawn(counts: str) -> Mask:
    """Run lengths as a mask of 300 x 451."""
    with warnings.catch_warnings():  # pycocotools 2.0.11 hands NumPy 2 an array in the old way
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask = pycocotools.mask.decode({"size": [300, 451], "counts": counts.encode()})
    return mask.astype(np.bool_)


def test_every_prompt_is_what_predicting_and_comparing_one_by_one_gives(
    picture: Drawn, predictor: Predictor, results: Results
) -> None:
    (found,) = evaluate(UNMERGED, predictor, [picture], results)
    assert results.found(UNMERGED) == {"cat": found}
    assert len(found.objects) == len(PROMPTED)
    predictor.set_image(picture.pixels)
    for one, made in zip(PROMPTED, found.objects, strict=True):
        (mask,), (score,), _ = predictor.predict(box=one.box, multimask_output=False)
        np.testing.assert_array_equal(drawn(made.mask), mask)
        assert made.score == pytest.approx(float(score), abs=1e-6)  # float32, batched
        assert made.iou == iou(mask, one.mask)
        assert made.boundary_iou == boundary_iou(mask, one.mask)
        assert made.dice == dice(mask, one.mask)
        assert made.agreement == 1
    assert found.seconds is not None
    assert 0 < found.seconds < 60


def test_the_annotation_is_stored_once_and_completely(
    picture: Drawn, predictor: Predictor, results: Results
) -> None:
    for model in (UNMERGED, "x", "y"):
        list(evaluate(model, predictor, [picture], results))
    assert len((results.folder / "truth.jsonl").read_text().splitlines()) == 1
    truth = results.truth()["cat"]
    assert truth.size == (300, 451)
    for one, noted in zip(OBJECTS, truth.objects, strict=True):
        np.testing.assert_array_equal(drawn(noted.mask), one.mask)
        assert (noted.category, noted.crowd) == (one.category, one.crowd)
        assert noted.empty == (one.box is None)


def test_existing_results_are_not_computed_again(
    picture: Drawn, predictor: Predictor, stopped: Any, results: Results
) -> None:
    first = list(evaluate(UNMERGED, predictor, [picture], results))
    picture.read.clear()
    assert list(evaluate(UNMERGED, stopped, [picture], results)) == first
    assert picture.read == []
    another = replace(picture, name="dog")
    assert [one.picture for one in evaluate(UNMERGED, predictor, [another, picture], results)] == [
        "dog",
        "cat",
    ]
    assert list(results.found(UNMERGED)) == ["cat", "dog"]


def test_a_picture_is_read_once(picture: Drawn, predictor: Predictor, results: Results) -> None:
    list(evaluate(UNMERGED, predictor, [picture], results))
    assert picture.read == ["objects", "image"]


def test_lost_annotations_are_stored_again(picture: Drawn, predictor: Predictor, results: Results) -> None:
    list(evaluate(UNMERGED, predictor, [picture], results))
    before = results.truth()
    (results.folder / "truth.jsonl").unlink()
    list(evaluate(UNMERGED, predictor, [picture], results))
    assert results.truth() == before
    assert list(results.found(UNMERGED)) == ["cat"]


@pytest.mark.parametrize("objects", [[], [OBJECTS[3]], [OBJECTS[4]], OBJECTS[3:5]])
def test_without_a_prompt_nothing_runs(
    picture: Drawn, stopped: Any, results: Results, objects: list[Object]
) -> None:
    bare = replace(picture, drawn=objects)
    for model in (UNMERGED, "x"):
        assert list(evaluate(model, stopped, [bare], results)) == [FoundObjects("cat", None, None, ())]
    assert "image" not in bare.read
    assert results.truth()["cat"].size == ((300, 451) if objects else None)
    assert len(results.truth()["cat"].objects) == len(objects)


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_prompts_keep_their_order_over_several_calls(
    picture: Drawn,
    predictor: Predictor,
    results: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: int,
) -> None:
    (whole,) = evaluate(UNMERGED, predictor, [picture], results)
    monkeypatch.setattr(run, "PROMPTS", together)
    (tmp_path / "parts").mkdir()
    (parts,) = evaluate(UNMERGED, predictor, [picture], Results(tmp_path / "parts"))
    assert parts.objects == whole.objects


def test_others_agree_with_the_unmerged_model_object_by_object(
    picture: Drawn, predictor: Predictor, results: Results
) -> None:
    """The other model's masks are those of a larger threshold: smaller ones."""
    (first,) = evaluate(UNMERGED, predictor, [picture], results)
    usual = predictor.model
    predictor.model = replace(usual, mask_threshold=3.0)
    (second,) = evaluate("x", predictor, [picture], results)
    predictor.model = usual
    for one, other in zip(first.objects, second.objects, strict=True):
        expected = iou(drawn(one.mask), drawn(other.mask))
        assert other.agreement == pytest.approx(float(expected), abs=TOLERANCE)
    assert any(0 < other.agreement < 1 for other in second.objects)


def test_the_unmerged_model_has_to_come_first(
    picture: Drawn, predictor: Predictor, stopped: Any, results: Results
) -> None:
    with pytest.raises(UserError, match="the unmerged model has no results for cat; evaluate it first"):
        list(evaluate("x", stopped, [picture], results))
    list(evaluate(UNMERGED, predictor, [picture], results))
    with pytest.raises(UserError, match="has no results for dog"):
        list(evaluate("x", predictor, [picture, replace(picture, name="dog")], results))
    assert list(results.found("x")) == ["cat"]


@pytest.mark.parametrize(
    "objects",
    [
        OBJECTS[:-1],
        [*OBJECTS[:-1], Object(box(299, 449, 299, 450), 3)],
        [replace(OBJECTS[0], category=4)],
        [],
    ],
)
def test_an_annotation_that_changed_is_refused(
    picture: Drawn, predictor: Predictor, stopped: Any, results: Results, objects: list[Object]
) -> None:
    """Else its objects would be compared with what was found for others."""
    list(evaluate(UNMERGED, predictor, [picture], results))
    with pytest.raises(
        UserError, match=r"the annotation of cat has changed since .* choose another --output"
    ):
        list(evaluate("x", stopped, [replace(picture, drawn=objects)], results))
    assert results.found("x") == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_overflows_is_an_error_and_stores_nothing(
    picture: Drawn,
    predictor: Predictor,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    predict = predictor.predict

    def overflowed(**prompt: Any) -> Any:
        masks, scores, low_res = predict(**prompt)
        scores[-1] = value
        return masks, scores, low_res

    monkeypatch.setattr(predictor, "predict", overflowed)
    with pytest.raises(UserError, match=f"{UNMERGED} returns NaN or infinity for cat"):
        list(evaluate(UNMERGED, predictor, [picture], results))
    assert results.found(UNMERGED) == {}


ROWS = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3)


@given(ROWS, ROWS)
def test_agreement_is_iou_without_drawing(a: list[list[bool]], b: list[list[bool]]) -> None:
    first, second = np.array(a), np.array(b)
    expected = float(iou(first, second))
    assert agreement(encode(first), encode(second)) == pytest.approx(expected, abs=TOLERANCE)


def test_of_empty_masks_two_agree_and_one_does_not() -> None:
    none, some = np.zeros((3, 4), np.bool_), np.eye(3, 4, dtype=np.bool_)
    assert agreement(encode(none), encode(none)) == 1
    assert agreement(encode(none), encode(some)) == agreement(encode(some), encode(none)) == 0
