"""Summaries of results as the tables of the paper, in Markdown and CSV."""

import csv
import dataclasses
import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..benchmarking.tables import markdown as as_markdown
from .coco_ap import AveragePrecision, Prediction, Truth, average_precision
from .metrics import Interval, interval
from .results import RUN, UNMERGED, FoundObjects, Results, TrueObjects

METRICS = ("iou", "boundary_iou", "dice", "agreement")
APS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "small": "APs", "medium": "APm", "large": "APl"}
FACTS = ("rate", "effective_window", "effective_global", "gmac", "runner")


@dataclass(frozen=True)
class Counts:
    """How much of a dataset a summary is computed from.

    Attributes:
        pictures: pictures with a prompt that every model has results for.
        prompts: box prompts in them.
        bare: pictures without a prompt, on which no model ran.
        empty: annotated objects without pixels, which have no box.
        waiting: pictures that only some models have results for; they are not counted yet.
    """

    pictures: int
    prompts: int
    bare: int
    empty: int
    waiting: int


@dataclass(frozen=True)
class Summary:
    """One model on one dataset.

    Attributes:
        dataset: name and split of the dataset.
        model: name of the model.
        label: name in tables and plots; with its rate, unique among the models of a dataset.
        facts: facts of the model, with the keys FACTS.
        counts: size of the evaluated data; the same for every model of the dataset.
        quality: mean and 95 % interval over pictures of each of METRICS, in [0, 1].
        change: mean and interval of the difference from the unmerged model, prompt by prompt; empty for the
            unmerged model itself.
        ap: average precision with boxes as prompts and the predicted IoU as score.
        images_per_second: one over the median time of the encoder.
        peak_bytes: peak resident size while encoding; None if it was not measured.
    """

    dataset: str
    model: str
    label: str
    facts: Mapping[str, Any]
    counts: Counts
    quality: Mapping[str, Interval]
    change: Mapping[str, Interval]
    ap: AveragePrecision
    images_per_second: float
    peak_bytes: int | None


def report(root: Path) -> list[Summary]:
    """Summaries of all models on all datasets with results under a folder, sorted by label, rate and dataset.

    Raises:
        UserError: a file of results cannot be read.
    """
    folders = sorted(path.parent for path in root.glob(f"*/{RUN}"))
    summaries = _told_apart([summary for folder in folders for summary in summarize(Results(folder))])
    labels = list(dict.fromkeys(s.label for s in summaries))  # in the order in which models were added
    return sorted(summaries, key=lambda s: (labels.index(s.label), s.facts["rate"], s.dataset))


def _told_apart(summaries: Sequence[Summary]) -> list[Summary]:
    """Make labels unique: add the runner if there are several, and the model's name if that is not enough."""
    if len({s.facts["runner"] for s in summaries}) > 1:
        summaries = [dataclasses.replace(s, label=f"{s.label}, {s.facts['runner']}") for s in summaries]
    found = Counter((s.dataset, s.label, s.facts["rate"]) for s in summaries)
    return [
        dataclasses.replace(s, label=f"{s.label}, {s.model}")
        if found[s.dataset, s.label, s.facts["rate"]] > 1
        else s
        for s in summaries
    ]


def summarize(results: Results) -> list[Summary]:
    """Summaries of all models of one dataset, in the order in which they were added.

    Only pictures that all models have results for are counted, so that an unfinished run is comparable.
    Models without results are left out, and so is a dataset without prompts.
    """
    models = results.run()["models"]
    seen = {model: pictures for model in models if (pictures := results.found(model))}
    common = set.intersection(*map(set, seen.values())) if seen else set[str]()
    truths = [truth for truth in results.truth().values() if truth.picture in common]
    prompted = [truth for truth in truths if any(one.prompted for one in truth.objects)]
    if not prompted:
        return []
    counts = Counts(
        pictures=len(prompted),
        prompts=sum(one.prompted for truth in prompted for one in truth.objects),
        bare=len(truths) - len(prompted),
        empty=sum(one.empty for truth in truths for one in truth.objects),
        waiting=len(set.union(*map(set, seen.values())) - common),
    )
    found = {model: [pictures[one.picture] for one in prompted] for model, pictures in seen.items()}
    return [
        Summary(
            dataset=results.folder.name,
            model=model,
            label=models[model]["label"],
            facts=models[model],
            counts=counts,
            quality={name: _interval(mine, _values(mine, name)) for name in METRICS},
            change={} if model == UNMERGED else _change(mine, found.get(UNMERGED)),
            ap=_average_precision(prompted, mine),
            images_per_second=1 / statistics.median(one.seconds for one in mine if one.seconds is not None),
            peak_bytes=max((one.peak_bytes for one in mine if one.peak_bytes is not None), default=None),
        )
        for model, mine in found.items()
    ]


def _change(found: Sequence[FoundObjects], unmerged: Sequence[FoundObjects] | None) -> dict[str, Interval]:
    """Differences from the unmerged model by metric, prompt by prompt; empty if it has no results."""
    if unmerged is None:
        return {}
    return {name: _interval(found, _values(found, name) - _values(unmerged, name)) for name in METRICS}


def _interval(found: Sequence[FoundObjects], values: NDArray[np.float64]) -> Interval:
    """Mean and interval of one value per prompt [P], with pictures as resampling units."""
    return interval(values, [picture.picture for picture in found for _ in picture.objects])


def _values(found: Sequence[FoundObjects], metric: str) -> NDArray[np.float64]:
    """A metric of every prompt, [P]."""
    return np.array([getattr(one, metric) for picture in found for one in picture.objects])


def _average_precision(truths: Sequence[TrueObjects], found: Sequence[FoundObjects]) -> AveragePrecision:
    wanted, predicted = list[Truth](), list[Prediction]()
    for truth, picture in zip(truths, found, strict=True):
        name, size = truth.picture, truth.size
        drawn = [one for one in truth.objects if not one.empty]
        wanted += [Truth(name, one.category, _rle(one.mask, size), one.crowd) for one in drawn]
        predicted += [
            Prediction(name, one.category, _rle(made.mask, size), made.score)
            for one, made in zip([one for one in drawn if one.prompted], picture.objects, strict=True)
        ]
    return average_precision(wanted, predicted)


def _rle(counts: str, size: tuple[int, int] | None) -> dict[str, Any]:
    return {"size": list(size or ()), "counts": counts.encode()}


def markdown(what: Mapping[str, Any], summaries: Sequence[Summary]) -> str:
    """All tables, under a heading with architecture, weights and machine.

    Args:
        what: the argument of `Results.begin`: arch, image_size, weights, machine.
        summaries: from `report`.
    """
    parts = [f"# Evaluation of {what['arch']} at {what['image_size']} pixels"]
    parts.append(f"Weights: {what['weights']}. Machine: {what['machine']}.")
    if not summaries:
        return "\n\n".join([*parts, "No picture has an object with a box."]) + "\n"
    first = {s.dataset: s for s in reversed(summaries)}
    parts += [_counted(dataset, first[dataset].counts) for dataset in sorted(first)]
    if what["weights"].startswith("random, seed"):
        parts.append("**Weights are random: only agreement and cost are meaningful.**")
    for title, table in (
        ("Quality and cost (paper, Table 3)", table_3(summaries)),
        ("Dice (paper, Table 1)", table_1(summaries)),
        ("Average precision (paper, Table 2)", table_2(summaries)),
        ("Quality by rate (paper, Table 4)", table_4(summaries)),
    ):
        parts += [f"## {title}", as_markdown(table)]
    return "\n\n".join([*parts, "## How to read them", LEGEND]) + "\n"


LEGEND = """\
- mIoU, b-mIoU (boundary) and Dice: means over prompts in %. For the unmerged model with half of the 95 %
  interval over pictures; for the others with the difference from it and half of that difference's interval.
- agreement: mean IoU with the unmerged model's own masks in %, ± half of its 95 % interval.
- removed: effective rate, the share of tokens removed in window / global blocks.
- GMAC: multiply-accumulates of the encoder in 10^9; the paper calls them GFLOPs.
- Imgs/s: one over the median time of the encoder, picture preparation included, on this machine.
- Mem GB: peak resident size of the process while encoding, weights included; GPU memory is not included."""


def _counted(dataset: str, counts: Counts) -> str:
    """The size of the evaluated data of a dataset, and what was left out."""
    out = {
        "pictures without a prompt": counts.bare,
        "objects without pixels": counts.empty,
        "pictures without results of every model": counts.waiting,
    }
    told = ", ".join(f"{what} ({number})" for what, number in out.items() if number)
    left = f" Left out: {told}." if told else ""
    return f"{dataset}: {counts.pictures} pictures, {counts.prompts} box prompts.{left}"


Table = list[list[str]]
"""Rows of cells; the first row is the header."""
Column = tuple[str, Callable[[Summary], str]]
"""A title, and the function that gives a cell."""
AGREEMENT: Column = ("agreement", lambda s: percent(s.quality["agreement"]))
"""Agreement with the unmerged model; it has no difference from that model to report."""


def table_1(summaries: Sequence[Summary]) -> Table:
    """Dice, the layout of the paper's Table 1 (INbreast)."""
    return _by_dataset(summaries, [_quality("Dice", "dice")], costs=("GMAC",))


def table_2(summaries: Sequence[Summary]) -> Table:
    """Average precision, the layout of the paper's Table 2 (Cityscapes)."""
    return _by_dataset(summaries, [_precision(title, name) for name, title in APS.items()])


def table_3(summaries: Sequence[Summary]) -> Table:
    """mIoU and boundary mIoU on every dataset, and cost: the layout of the paper's Table 3."""
    columns: list[Column] = [
        _quality("mIoU", "iou"),
        _quality("b-mIoU", "boundary_iou"),
        AGREEMENT,
    ]
    return _by_dataset(summaries, columns, costs=("GMAC", "Imgs/s", "Mem GB"))


def table_4(summaries: Sequence[Summary]) -> Table:
    """One row per method with its rates side by side: the layout of the paper's Table 4."""
    merged = [s for s in summaries if s.facts["rate"]]
    rates = sorted({s.facts["rate"] for s in merged})
    several = len({s.dataset for s in summaries}) > 1
    columns = [_quality("mIoU", "iou"), _quality("b-mIoU", "boundary_iou"), AGREEMENT]
    header = ["method", *(f"r={rate:g} {title}" for rate in rates for title, _ in columns)]
    rows = []
    places = dict.fromkeys((s.dataset, s.label) for s in merged)
    for dataset, label in sorted(places, key=lambda place: place[0]):
        of_rate = {s.facts["rate"]: s for s in merged if (s.dataset, s.label) == (dataset, label)}
        cells = [value(of_rate[rate]) if rate in of_rate else "" for rate in rates for _, value in columns]
        rows.append([dataset] * several + [label, *cells])
    return [["dataset"] * several + header, *rows]


def _quality(title: str, metric: str) -> Column:
    return title, lambda s: percent(s.quality[metric], s.change.get(metric))


def _precision(title: str, name: str) -> Column:
    return title, lambda s: _share(getattr(s.ap, name))


def _by_dataset(summaries: Sequence[Summary], columns: Sequence[Column], costs: Iterable[str] = ()) -> Table:
    """One row per model and one set of columns per dataset; titles name the dataset if there are several."""
    datasets = sorted({s.dataset for s in summaries})
    names = [f"{dataset} " for dataset in datasets] if len(datasets) > 1 else [""]
    titles = [f"{name}{title}" for name in names for title, _ in columns]
    header = ["method", "rate", "removed", *costs, *titles]
    rows = []
    for model in dict.fromkeys(s.model for s in summaries):
        mine = {s.dataset: s for s in summaries if s.model == model}
        cells = [
            value(mine[dataset]) if dataset in mine else "" for dataset in datasets for _, value in columns
        ]
        all_mine = list(mine.values())
        rows.append([*_model(all_mine[0]), *(_cost(name, all_mine) for name in costs), *cells])
    return [header, *rows]


def _model(summary: Summary) -> list[str]:
    """Label, requested rate and effective rates."""
    facts = summary.facts
    if not facts["rate"]:
        return [summary.label, "", ""]
    removed = f"{facts['effective_window']:.1%} / {facts['effective_global']:.1%}"
    return [summary.label, f"{facts['rate']:g}", removed]


def _cost(name: str, mine: Sequence[Summary]) -> str:
    """A model's cost over all datasets."""
    if name == "GMAC":
        return f"{mine[0].facts['gmac']:.1f}"
    if name == "Imgs/s":
        return f"{statistics.median(s.images_per_second for s in mine):.2f}"
    peaks = [s.peak_bytes for s in mine if s.peak_bytes is not None]
    return f"{max(peaks) / 1e9:.2f}" if peaks else ""


def percent(value: Interval, change: Interval | None = None) -> str:
    """A mean in % with half of its interval; or with its change and half of that interval in brackets.

    Args:
        value: mean and interval, in [0, 1].
        change: difference from the unmerged model and its interval, in [-1, 1]; None for none.

    A single picture gives no interval.
    """
    if change is None:
        return f"{100 * value.mean:.1f}{_half(value)}"
    return f"{100 * value.mean:.1f} ({100 * change.mean:+.1f}{_half(change)})"


def _half(value: Interval) -> str:
    return "" if math.isnan(value.low) else f" ± {50 * (value.high - value.low):.1f}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def as_csv(summaries: Sequence[Summary]) -> str:
    """All numbers as CSV, one row per model and dataset, with intervals; missing values are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    values = [f"{name}{what}" for what in ("", "_change") for name in METRICS]
    ends = [f"{name}{end}" for name in values for end in ("", "_low", "_high")]
    counts = [field.name for field in dataclasses.fields(Counts)]
    writer.writerow(
        ["dataset", "model", "label", *FACTS, *counts, *ends, *APS, "images_per_second", "peak_bytes"]
    )
    nothing = Interval(math.nan, math.nan, math.nan)
    for s in summaries:
        intervals = [of.get(name, nothing) for of in (s.quality, s.change) for name in METRICS]
        numbers = [end for one in intervals for end in (one.mean, one.low, one.high)]
        numbers += [getattr(s.ap, name) for name in APS]
        writer.writerow(
            [
                *(s.dataset, s.model, s.label, *(s.facts[name] for name in FACTS)),
                *dataclasses.astuple(s.counts),
                *("" if math.isnan(value) else f"{value:.6f}" for value in [*numbers, s.images_per_second]),
                "" if s.peak_bytes is None else s.peak_bytes,
            ]
        )
    return file.getvalue()
