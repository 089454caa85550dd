"""Average precision against a hand-made case, a plain reference and pycocotools on files of its own."""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import astuple
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from structsam_runtime.evaluation.coco_ap import Prediction, Rle, Truth, average_precision, encode

ANNOTATIONS = Path(__file__).parents[3] / "../shared/data/coco-train/annotations"
TOLERANCE = 1e-12  # pycocotools adds 2e-16 to a denominator
Mask = NDArray[np.bool_]


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros((128, 128), np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def truth(mask: Mask, image: str = "one", category: int = 1, crowd: bool = False) -> Truth:
    return Truth(image, category, encode(mask), crowd)


def prediction(mask: Mask, score: float, image: str = "one", category: int = 1) -> Prediction:
    return Prediction(image, category, encode(mask), score)


def decode(mask: Rle) -> Mask:
    with warnings.catch_warnings():  # pycocotools 2.0.11 hands NumPy 2 an array in the old way
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return pycocotools.mask.decode(mask).astype(np.bool_)


def plain_ap(
    truths: Sequence[Truth], predictions: Sequence[Prediction], threshold: float, low: float, high: float
) -> float:
    """COCO's definition at one IoU threshold for objects of low..high pixels, one step after another."""
    values = []
    for category in sorted({one.category for one in truths}):
        wanted = 0
        ranked: list[tuple[float, bool]] = []  # score, right; what is ignored is left out
        for image in sorted({one.image for one in [*truths, *predictions]}):
            objects = [one for one in truths if (one.image, one.category) == (image, category)]
            found = [one for one in predictions if (one.image, one.category) == (image, category)]
            ignored = [one.crowd or not low <= decode(one.mask).sum() <= high for one in objects]
            wanted += ignored.count(False)
            taken: set[int] = set()
            for guess in sorted(found, key=lambda one: -one.score):
                match = None
                for ignore in (False, True):  # objects that are not to be found only where no other fits
                    best = threshold
                    for number, one in enumerate(objects):
                        if ignored[number] != ignore or (number in taken and not one.crowd):
                            continue
                        both = (decode(one.mask) & decode(guess.mask)).sum()
                        either = (
                            decode(guess.mask) if one.crowd else decode(one.mask) | decode(guess.mask)
                        ).sum()
                        if both / max(either, 1) >= best:
                            best, match = both / max(either, 1), number
                    if match is not None:
                        break
                if match is None:
                    if low <= decode(guess.mask).sum() <= high:
                        ranked.append((guess.score, False))
                else:
                    taken.add(match)
                    if not ignored[match]:
                        ranked.append((guess.score, True))
        if wanted:
            right = [one[1] for one in sorted(ranked, key=lambda one: -one[0])]
            points = [
                (sum(right[:rank]) / wanted, sum(right[:rank]) / rank) for rank in range(1, len(right) + 1)
            ]
            levels = np.linspace(0, 1, 101)
            values.append(np.mean([max([p for r, p in points if r >= level], default=0) for level in levels]))
    return float(np.mean(values)) if values else math.nan


def plain_summary(truths: Sequence[Truth], predictions: Sequence[Prediction]) -> list[float]:
    """AP, AP50, AP75, APs, APm, APl."""
    thresholds = np.linspace(0.5, 0.95, 10)
    everything, large = (0.0, 1e10), (96.0**2, 1e10)

    def mean(sizes: tuple[float, float]) -> float:
        return float(np.mean([plain_ap(truths, predictions, threshold, *sizes) for threshold in thresholds]))

    return [
        mean(everything),
        plain_ap(truths, predictions, thresholds[0], *everything),
        plain_ap(truths, predictions, thresholds[5], *everything),
        mean((0, 32**2)),
        mean((32**2, 96**2)),
        mean(large),
    ]


def test_by_hand() -> None:
    # Two objects of 400 pixels. In the order of score: the first is found exactly, then nothing is found,
    # then the second with 256 of its 400 pixels, an IoU of 0.64.
    truths = [truth(rectangle(0, 0, 20, 20)), truth(rectangle(50, 50, 20, 20))]
    predictions = [
        prediction(rectangle(50, 50, 16, 16), 0.7),
        prediction(rectangle(0, 0, 20, 20), 0.9),
        prediction(rectangle(90, 90, 20, 20), 0.8),
    ]
    # Recall 0.00 to 0.50, 51 levels, is reached with precision 1; the other 50 with 2/3, if 0.64 is enough.
    ap50, ap75 = (51 + 50 * 2 / 3) / 101, 51 / 101
    ap = (3 * ap50 + 7 * ap75) / 10
    got = average_precision(truths, predictions)
    np.testing.assert_allclose(astuple(got), [ap, ap50, ap75, ap, math.nan, math.nan], rtol=0, atol=TOLERANCE)


SIDES = st.integers(1, 120)
RECTANGLES = st.builds(
    lambda top, left, height, width: rectangle(top, left, height, width),
    st.integers(0, 20),
    st.integers(0, 20),
    SIDES,
    SIDES,
)
IMAGES, CATEGORIES = st.sampled_from(["b", "a"]), st.sampled_from([3, 7])
# Few scores, so that some are equal; few places, so that some masks match.
SCORES = st.sampled_from([-1.0, 0.2, 0.5, 1.5])
TRUTHS = st.builds(truth, RECTANGLES, IMAGES, CATEGORIES, st.sampled_from([False, False, True]))
PREDICTIONS = st.builds(prediction, RECTANGLES, SCORES, IMAGES, CATEGORIES)


@given(st.lists(TRUTHS, max_size=5), st.lists(PREDICTIONS, max_size=3), st.lists(SCORES, max_size=5))
def test_is_what_the_definition_says(
    truths: list[Truth], strangers: list[Prediction], scores: list[float]
) -> None:
    near = [  # some are the objects themselves, less some rows
        prediction(decode(one.mask) & (np.arange(128) < 80)[:, None], score, one.image, one.category)
        for one, score in zip(truths, scores, strict=False)
    ]
    predictions = strangers + near
    expected = plain_summary(truths, predictions)
    got = astuple(average_precision(truths, predictions))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_the_mean_is_over_categories_that_have_an_object() -> None:
    square = rectangle(0, 0, 20, 20)
    truths = [truth(square, category=1), truth(square, category=2)]
    predictions = [prediction(square, 0.5, category=1), prediction(square, 0.9, category=8)]
    assert average_precision(truths, predictions).ap == pytest.approx(0.5, abs=TOLERANCE)


def test_what_is_found_in_a_picture_without_objects_is_wrong() -> None:
    square = rectangle(0, 0, 20, 20)
    predictions = [prediction(square, 0.5), prediction(square, 0.9, image="another")]
    assert average_precision([truth(square)], predictions).ap == pytest.approx(0.5, abs=TOLERANCE)


def test_a_crowd_is_neither_missed_nor_wrongly_found() -> None:
    square, crowd = rectangle(0, 0, 20, 20), rectangle(30, 30, 90, 90)
    truths = [truth(square), truth(crowd, crowd=True)]
    within = [prediction(rectangle(30 + step, 40, 9, 9), 0.9) for step in (0, 20, 40)]
    assert average_precision(truths, [prediction(square, 0.5), *within]).ap == pytest.approx(1, abs=TOLERANCE)
    assert math.isnan(average_precision(truths[1:], within).ap)


def test_a_side_of_32_is_small_and_medium_and_96_medium_and_large() -> None:
    masks = [rectangle(0, 0, side, side) for side in (32, 96)]
    for mask, names in zip(masks, [("small", "medium"), ("medium", "large")], strict=True):
        got = average_precision([truth(mask)], [prediction(mask, 1)])
        sizes = {name for name in ("small", "medium", "large") if not math.isnan(getattr(got, name))}
        assert sizes == set(names)
        assert all(getattr(got, name) == pytest.approx(1, abs=TOLERANCE) for name in names)


def test_without_predictions_nothing_is_found() -> None:
    got = average_precision([truth(rectangle(0, 0, 50, 50))], [])
    assert (got.ap, got.ap50, got.ap75, got.medium) == (0, 0, 0, 0)
    assert math.isnan(got.small)
    assert math.isnan(got.large)


@pytest.mark.parametrize("predictions", [[], [prediction(rectangle(0, 0, 9, 9), 0.5)]])
def test_without_objects_there_is_no_precision(predictions: list[Prediction]) -> None:
    assert all(math.isnan(value) for value in astuple(average_precision([], predictions)))


def test_an_empty_mask_is_not_found_and_finds_nothing() -> None:
    square, empty = rectangle(0, 0, 20, 20), np.zeros((128, 128), np.bool_)
    assert average_precision([truth(empty)], [prediction(empty, 1)]).ap == 0
    assert average_precision([truth(square)], [prediction(empty, 1)]).ap == 0


def test_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    average_precision([truth(rectangle(0, 0, 20, 20))], [prediction(rectangle(0, 0, 20, 20), 1)])
    assert capfd.readouterr() == ("", "")


def test_masks_of_another_size_and_scores_without_a_rank_are_refused() -> None:
    square = rectangle(0, 0, 20, 20)
    with pytest.raises(ValueError, match=r"masks of \[128, 128\] and of \[64, 128\] for the picture one"):
        average_precision([truth(square)], [prediction(square[:64], 1)])
    with pytest.raises(ValueError, match="not finite"):
        average_precision([truth(square)], [prediction(square, math.nan)])


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5, 3)])
def test_encoding_keeps_every_pixel(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((4, *size)) < 0.5
    for mask in (*masks, masks[0, ::-1, ::-1], np.zeros(size, np.bool_), np.ones(size, np.bool_)):
        np.testing.assert_array_equal(decode(encode(mask)), mask)
        assert encode(mask)["size"] == list(size)


def test_what_is_no_mask_is_not_encoded() -> None:
    with pytest.raises(ValueError, match=r"a mask of uint8 \[2, 3\], expected bool \[H, W\]"):
        encode(np.full((2, 3), 255, np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a mask of bool \[1, 2, 3\], expected bool \[H, W\]"):
        encode(np.ones((1, 2, 3), np.bool_))


def _uncompressed(mask: Mask) -> dict[str, list[int]]:
    """Run lengths as COCO's files write them: down the columns, the first run being outside of the mask."""
    runs = [(inside, len(list(run))) for inside, run in groupby(mask.T.ravel().tolist())]
    counts = [length for _, length in runs]
    return {"size": list(mask.shape), "counts": [0, *counts] if runs[0][0] else counts}


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="the annotated COCO pictures are not there")
def test_equals_pycocotools_on_files(tmp_path: Path) -> None:
    """Real objects, each predicted once, as with box prompts: moved by up to 9 pixels, some scores equal."""
    random = np.random.default_rng(0)
    source = json.loads((ANNOTATIONS / "panoptic_train2017.json").read_text(encoding="utf-8"))
    things = {category["id"] for category in source["categories"] if category["isthing"]}
    images, objects, results = [], [], []
    truths, predictions = [], []
    for annotation in source["annotations"][:25]:
        with Image.open(ANNOTATIONS / "panoptic_train2017" / annotation["file_name"]) as picture:
            colours = np.asarray(picture.convert("RGB"), np.int64)
        number, name = annotation["image_id"], f"{annotation['image_id']:012}"
        images.append({"id": number, "height": colours.shape[0], "width": colours.shape[1]})
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in things:
                continue
            mask = colours @ [1, 256, 65536] == segment["id"]
            category, crowd = segment["category_id"], segment["iscrowd"]
            place = {"image_id": number, "category_id": category}
            shape = {"segmentation": _uncompressed(mask), "area": int(np.count_nonzero(mask))}
            objects.append({"id": len(objects) + 1, **place, **shape, "iscrowd": crowd})
            truths.append(Truth(name, category, encode(mask), bool(crowd)))
            if not crowd:
                moved, score = np.roll(mask, random.integers(0, 10, 2), (0, 1)), round(random.random(), 1)
                compressed = pycocotools.mask.frPyObjects(_uncompressed(moved), *moved.shape)
                text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
                results.append({**place, "segmentation": text, "score": score})
                predictions.append(Prediction(name, category, encode(moved), score))
    categories = [{"id": category, "name": str(category)} for category in sorted(things)]
    dataset = {"info": {}, "images": images, "categories": categories, "annotations": objects}
    for file, content in (("truth.json", dataset), ("results.json", results)):
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    got = astuple(average_precision(truths, predictions))
    assert got == tuple(evaluation.stats[:6])
    assert 0 < got[0] < got[1] < 1
    assert all(a != b for a, b in product(got[3:], got[:2]))
