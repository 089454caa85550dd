"""Tables from results that were made up: every number by hand, and what is left out is told."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from structsam_runtime.evaluation.coco_ap import Prediction, Truth, average_precision, encode
from structsam_runtime.evaluation.metrics import Interval, interval
from structsam_runtime.evaluation.report import (
    Summary,
    as_csv,
    markdown,
    percent,
    report,
    summarize,
    table_1,
    table_2,
    table_3,
    table_4,
)
from structsam_runtime.evaluation.results import (
    UNMERGED,
    FoundObject,
    FoundObjects,
    Results,
    TrueObject,
    TrueObjects,
)

WHAT = {"arch": "vit_b", "image_size": 1024, "weights": "sam.pth abc", "machine": "a CPU, 2 cores"}
SIZE = (40, 50)

Write = Callable[..., Results]


def counts(height: int, width: int) -> str:
    """Run lengths of a rectangle in the top left corner."""
    mask = np.zeros(SIZE, np.bool_)
    mask[:height, :width] = True
    return encode(mask)["counts"].decode()


def true(height: int = 10, width: int = 10, category: int = 1, crowd: bool = False) -> TrueObject:
    return TrueObject(category, counts(height, width), crowd, empty=not height)


def found(iou: float, *, mask: str | None = None, score: float = 0.9) -> FoundObject:
    """An object whose other metrics follow from its IoU, all different."""
    return FoundObject(mask or counts(10, 10), score, iou, iou / 2, iou / 4, 1 - iou)


def facts(label: str, rate: float, runner: str = "pytorch", **more: Any) -> dict[str, Any]:
    return {
        "label": label, "rate": rate, "effective_window": rate, "effective_global": rate, "gmac": 400 - rate,
        "runner": runner, **more,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the results of one dataset: `write(dataset, truth, models)`.

    `truth` is picture -> annotated objects; `models` is name -> (facts, picture -> IoU of every prompt).
    """

    def written(
        dataset: str,
        truth: dict[str, Sequence[TrueObject]],
        models: dict[str, tuple[dict[str, Any], dict[str, Sequence[float]]]],
    ) -> Results:
        results = Results(tmp_path / dataset)
        results.begin(list(truth), WHAT, {name: about for name, (about, _) in models.items()})
        for picture, objects in truth.items():
            results.add_truth(TrueObjects(picture, SIZE if objects else None, tuple(objects)))
        for name, (_, pictures) in models.items():
            for number, (picture, ious) in enumerate(pictures.items(), 1):
                seconds = number / 10 if ious else None
                peak = number * 10**9 if ious else None
                results.add(name, FoundObjects(picture, seconds, peak, tuple(map(found, ious))))
        return results

    return written


TRUTH = {"a": [true(), true()], "b": [true()], "c": [true()]}
BASELINE = (facts("Baseline", 0.0), {"a": [0.5, 0.7], "b": [0.9], "c": [0.3]})
STRUCTSAM = (facts("StructSAM", 0.55), {"a": [0.4, 0.7], "b": [0.8], "c": [0.3]})


def test_quality_by_hand(write: Write) -> None:
    first, second = summarize(write("one", TRUTH, {UNMERGED: BASELINE, "structsam-r55": STRUCTSAM}))
    names = ["a", "a", "b", "c"]
    assert first.quality["iou"] == interval(np.array([0.5, 0.7, 0.9, 0.3]), names)
    assert first.quality["iou"].mean == pytest.approx(0.6, abs=1e-12)
    assert first.quality["boundary_iou"].mean == pytest.approx(0.3, abs=1e-12)
    assert first.quality["dice"].mean == pytest.approx(0.15, abs=1e-12)
    assert first.quality["agreement"].mean == pytest.approx(0.4, abs=1e-12)
    assert first.change == {}
    assert second.quality["iou"].mean == pytest.approx(0.55, abs=1e-12)
    assert second.change["iou"] == interval(np.array([0.4 - 0.5, 0, 0.8 - 0.9, 0]), names)
    for summary in (first, second):
        assert summary.images_per_second == 1 / 0.2
        assert summary.peak_bytes == 3 * 10**9
        assert (summary.dataset, summary.facts["gmac"]) == ("one", 400 - summary.facts["rate"])


def test_a_change_has_its_own_narrower_interval(write: Write) -> None:
    """What makes a picture hard for both models cancels."""
    truth = {str(number): [true()] for number in range(20)}
    hard = {picture: [int(picture) / 20] for picture in truth}
    lost = {picture: [value - 0.01 * (int(picture) % 2)] for picture, (value,) in hard.items()}
    models = {UNMERGED: (facts("Baseline", 0.0), hard), "x": (facts("X", 0.5), lost)}
    _, second = summarize(write("one", truth, models))
    own, change = second.quality["iou"], second.change["iou"]
    assert own.high - own.low > 0.2
    assert change.high - change.low < 0.01
    assert change.low < -0.005 < change.high


def test_average_precision_is_that_of_all_prompts_with_crowds(write: Write, tmp_path: Path) -> None:
    truth = {"a": [true(), true(30, 30, crowd=True), true(20, 20, 2)], "b": [true(0, 0), true()]}
    results = write("one", truth, {UNMERGED: (facts("Baseline", 0.0), {})})
    half = counts(10, 6)
    results.add(UNMERGED, FoundObjects("a", 0.1, None, (found(0.6, mask=half), found(1, score=0.5))))
    results.add(UNMERGED, FoundObjects("b", 0.1, None, (found(1, score=0.3),)))
    (summary,) = summarize(results)

    def rle(text: str) -> dict[str, Any]:
        return {"size": list(SIZE), "counts": text.encode()}

    wanted = [
        Truth("a", 1, rle(counts(10, 10))),
        Truth("a", 1, rle(counts(30, 30)), crowd=True),
        Truth("a", 2, rle(counts(20, 20))),
        Truth("b", 1, rle(counts(10, 10))),
    ]
    made = [
        Prediction("a", 1, rle(half), 0.9),
        Prediction("a", 2, rle(counts(10, 10)), 0.5),
        Prediction("b", 1, rle(counts(10, 10)), 0.3),
    ]
    expected = average_precision(wanted, made)
    assert str(summary.ap) == str(expected)  # as text, nan equals nan
    assert 0 < expected.ap < 1
    assert summary.counts.empty == 1


def test_pictures_without_results_of_every_model_are_not_counted(write: Write) -> None:
    part = (facts("StructSAM", 0.55), {"b": [0.8], "c": [0.3]})
    results = write("one", TRUTH, {UNMERGED: BASELINE, "x": part, "begun": (facts("ToMe", 0.5), {})})
    summaries = summarize(results)
    assert [s.model for s in summaries] == [UNMERGED, "x"]
    for summary in summaries:
        assert (summary.counts.pictures, summary.counts.prompts, summary.counts.waiting) == (2, 2, 1)
    assert summaries[0].quality["iou"].mean == pytest.approx(0.6, abs=1e-12)
    assert "2 pictures, 2 box prompts. Left out: pictures without results of every model (1)." in markdown(
        WHAT, summaries
    )


def test_pictures_without_a_prompt_are_only_counted(write: Write) -> None:
    truth = {"a": [true()], "b": [true(0, 0), true(0, 0)], "c": [], "d": [true(), true(0, 0)]}
    seen = {"a": [0.5], "b": [], "c": [], "d": [0.9]}
    (summary,) = summarize(write("one", truth, {UNMERGED: (facts("Baseline", 0.0), seen)}))
    assert summary.counts.pictures == summary.counts.prompts == summary.counts.bare == 2
    assert (summary.counts.empty, summary.counts.waiting) == (3, 0)
    assert summary.quality["iou"].mean == pytest.approx(0.7, abs=1e-12)
    assert summary.images_per_second == 1 / 0.25
    assert "Left out: pictures without a prompt (2), objects without pixels (3)." in markdown(WHAT, [summary])


@pytest.mark.parametrize("truth", [{}, {"a": []}, {"a": [true(0, 0)]}, {"a": [true(crowd=True)]}])
def test_without_any_prompt_it_says_so(
    write: Write, truth: dict[str, list[TrueObject]], tmp_path: Path
) -> None:
    write("one", truth, {UNMERGED: (facts("Baseline", 0.0), {picture: [] for picture in truth})})
    assert report(tmp_path) == []
    assert "No picture has an object with a box." in markdown(WHAT, [])
    assert len(as_csv([]).splitlines()) == 1


def test_nothing_that_was_measured_is_an_empty_report(write: Write, tmp_path: Path) -> None:
    write("one", TRUTH, {UNMERGED: (facts("Baseline", 0.0), {})})
    assert report(tmp_path) == []
    assert report(tmp_path / "none") == []


def test_without_the_unmerged_model_there_is_no_change(write: Write) -> None:
    (summary,) = summarize(write("one", TRUTH, {"x": STRUCTSAM}))
    assert summary.change == {}


def methods(write: Write, *datasets: str) -> list[Summary]:
    """Two methods at two rates, the second rate added later."""
    for dataset in datasets:
        models = {UNMERGED: BASELINE}
        for rate in (0.55, 0.35):
            for name in ("structsam", "tome"):
                models[f"{name}-r{rate}"] = (facts(name, rate), STRUCTSAM[1])
        results = write(dataset, TRUTH, models)
    return report(results.folder.parent)


def test_rows_are_ordered_by_method_and_rate(write: Write) -> None:
    rows = table_3(methods(write, "one"))[1:]
    assert [row[:2] for row in rows] == [
        ["Baseline", ""], ["structsam", "0.35"], ["structsam", "0.55"], ["tome", "0.35"], ["tome", "0.55"],
    ]  # fmt: skip


def test_a_rate_of_one_dataset_only_is_in_its_place(write: Write, tmp_path: Path) -> None:
    write(
        "one",
        TRUTH,
        {UNMERGED: BASELINE, "x-r35": (facts("x", 0.35), STRUCTSAM[1]), "y": (facts("y", 0.5), {})},
    )
    write("two", TRUTH, {UNMERGED: BASELINE, "z": STRUCTSAM, "x-r20": (facts("x", 0.2), STRUCTSAM[1])})
    assert [row[:2] for row in table_3(report(tmp_path))[1:]] == [
        ["Baseline", ""], ["x", "0.2"], ["x", "0.35"], ["StructSAM", "0.55"],
    ]  # fmt: skip


def test_one_dataset_is_named_in_the_heading_alone(write: Write) -> None:
    summaries = methods(write, "dis5k-DIS-VD")
    assert table_3(summaries)[0] == [
        "method", "rate", "removed", "GMAC", "Imgs/s", "Mem GB", "mIoU", "b-mIoU", "agreement",
    ]  # fmt: skip
    assert table_1(summaries)[0] == ["method", "rate", "removed", "GMAC", "Dice"]
    assert table_2(summaries)[0][3:] == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert table_4(summaries)[0] == [
        "method",
        *(f"r={rate} {what}" for rate in (0.35, 0.55) for what in ("mIoU", "b-mIoU", "agreement")),
    ]
    assert [row[0] for row in table_4(summaries)[1:]] == ["structsam", "tome"]
    assert markdown(WHAT, summaries).count("dis5k-DIS-VD") == 1


def test_several_datasets_are_named_in_every_column(write: Write) -> None:
    summaries = methods(write, "one", "two")
    header, first, *_ = table_3(summaries)
    assert header[6:] == [
        f"{name} {what}" for name in ("one", "two") for what in ("mIoU", "b-mIoU", "agreement")
    ]
    assert first[6:9] == first[9:]
    assert len(table_3(summaries)) == 6
    assert [row[:2] for row in table_4(summaries)] == [
        ["dataset", "method"], ["one", "structsam"], ["one", "tome"], ["two", "structsam"], ["two", "tome"],
    ]  # fmt: skip


def test_a_model_that_a_dataset_lacks_has_empty_cells(write: Write, tmp_path: Path) -> None:
    write("one", TRUTH, {UNMERGED: BASELINE, "x": STRUCTSAM})
    write("two", TRUTH, {UNMERGED: BASELINE})
    (_, _, row) = table_3(report(tmp_path))
    assert row[0] == "StructSAM"
    assert all(row[:9])
    assert row[9:] == ["", "", ""]


def test_cells_by_hand(write: Write) -> None:
    summaries = summarize(write("one", TRUTH, {UNMERGED: BASELINE, "structsam-r55": STRUCTSAM}))
    _, first, second = table_3(summaries)
    assert first[:6] == ["Baseline", "", "", "400.0", "5.00", "3.00"]
    assert second[:6] == ["StructSAM", "0.55", "55.0% / 55.0%", "399.4", "5.00", "3.00"]
    assert first[6].startswith("60.0 ± ")
    assert second[6].startswith("55.0 (-5.0 ± ")


@pytest.mark.parametrize(
    ("value", "change", "expected"),
    [
        (Interval(0.5, 0.4, 0.6), None, "50.0 ± 10.0"),
        (Interval(0.5, math.nan, math.nan), None, "50.0"),
        (Interval(0.5, 0.4, 0.6), Interval(-0.012, -0.02, -0.01), "50.0 (-1.2 ± 0.5)"),
        (Interval(0.5, 0.4, 0.6), Interval(0.012, math.nan, math.nan), "50.0 (+1.2)"),
    ],
)
def test_percent(value: Interval, change: Interval | None, expected: str) -> None:
    assert percent(value, change) == expected


def test_labels_are_made_unique_by_runner_and_then_by_model(write: Write, tmp_path: Path) -> None:
    """Else a cell of Table 4 would hold whichever came last."""
    write(
        "one",
        TRUTH,
        {
            UNMERGED: BASELINE,
            "a-cpu": (facts("StructSAM", 0.55, "cpu fp32"), STRUCTSAM[1]),
            "a-cuda": (facts("StructSAM", 0.55, "cuda fp32"), STRUCTSAM[1]),
            "b-cuda": (facts("StructSAM", 0.55, "cuda fp32"), BASELINE[1]),
            "c-cuda": (facts("StructSAM", 0.35, "cuda fp32"), BASELINE[1]),
        },
    )
    summaries = report(tmp_path)
    labels = {s.model: s.label for s in summaries}
    assert labels == {
        UNMERGED: "Baseline, pytorch",
        "a-cpu": "StructSAM, cpu fp32",
        "a-cuda": "StructSAM, cuda fp32, a-cuda",
        "b-cuda": "StructSAM, cuda fp32, b-cuda",
        "c-cuda": "StructSAM, cuda fp32",
    }
    cells = {row[0]: row[1:] for row in table_4(summaries)[1:]}
    assert list(cells) == [label for label in labels.values() if label != "Baseline, pytorch"]
    assert cells["StructSAM, cuda fp32, a-cuda"][3].startswith("55.0")
    assert cells["StructSAM, cuda fp32, b-cuda"][3].startswith("60.0")


def test_csv_has_every_number_and_nothing_where_there_is_none(write: Write, tmp_path: Path) -> None:
    one = {"a": TRUTH["a"]}
    models = {
        UNMERGED: (BASELINE[0], {"a": [0.5, 0.7]}),
        "structsam-r55": (STRUCTSAM[0], {"a": [0.4, 0.7]}),
    }
    results = write("one", one, models)
    first, second = csv.DictReader(io.StringIO(as_csv(report(tmp_path))))
    assert "nan" not in as_csv(report(tmp_path))
    assert (first["model"], second["model"]) == (UNMERGED, "structsam-r55")
    assert (second["label"], second["rate"], second["gmac"], second["runner"]) == (
        "StructSAM", "0.55", "399.45", "pytorch",
    )  # fmt: skip
    assert (second["pictures"], second["prompts"], second["bare"]) == ("1", "2", "0")
    assert (second["iou"], second["iou_change"]) == ("0.550000", "-0.050000")
    assert second["iou_low"] == second["iou_change_high"] == first["iou_change"] == ""  # a single picture
    assert second["small"] != second["large"] == ""
    assert (second["images_per_second"], second["peak_bytes"]) == ("10.000000", "1000000000")
    (results.folder / "structsam-r55.jsonl").unlink()
    results.add("structsam-r55", FoundObjects("a", 0.1, None, tuple(map(found, [0.4, 0.7]))))
    _, second = csv.DictReader(io.StringIO(as_csv(report(tmp_path))))
    assert second["peak_bytes"] == ""
    assert table_3(report(tmp_path))[2][5] == ""


def test_random_weights_are_reported(write: Write) -> None:
    summaries = methods(write, "one")
    assert "Weights are random" not in markdown(WHAT, summaries)
    assert "Weights are random" not in markdown({**WHAT, "weights": "random_init.pth abc"}, summaries)
    assert "**Weights are random" in markdown({**WHAT, "weights": "random, seed 0"}, summaries)


def test_markdown_has_whole_tables(write: Write) -> None:
    text = markdown(WHAT, methods(write, "one", "two"))
    assert text.startswith("# Evaluation of vit_b at 1024 pixels\n")
    assert "Weights: sam.pth abc. Machine: a CPU, 2 cores." in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert len(table) == 2 + (4 if "dataset" in table[0] else 5)
