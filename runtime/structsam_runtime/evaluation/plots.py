"""Plots of mask quality by rate (paper, figure 6), and of every variant at one rate."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..colours import LINES, code
from .report import Summary

PANELS = {"iou": "mIoU, %", "boundary_iou": "boundary mIoU, %", "agreement": "agreement with unmerged, %"}
COLOURS = (*map(code, LINES), "#7F7F7F")
"""Colours of methods; black is for the unmerged model."""
MARKERS = "osD^v<>XPd*p"
DASHES = ("-", ":")
SPREAD = 0.4
"""Share of the distance between two rates over which the markers of methods are spread."""
CAPPED = 0.01
"""A method whose effective rate is lower than the requested rate by more than this has hollow markers."""
BAR = 0.26
"""Height of one row, in inches."""
FAR = 6
"""A variant this many interquartile ranges below the lower quartile is written as a number at the end of the
axis: drawn to scale it would squeeze all others together."""


def parted(summaries: Sequence[Summary]) -> tuple[list[Summary], list[Summary]]:
    """Divide the models of one dataset between the two plots.

    Args:
        summaries: all models of one dataset.

    Returns:
        For `plot`, the methods with three rates or more, or with the most that any has; for `plot_choices`,
        all models at the rate with the most models, or none if the first plot shows all. Both include the
        unmerged model.
    """
    merged = [s for s in summaries if s.facts["rate"]]
    unmerged = [s for s in summaries if not s.facts["rate"]]
    rates = Counter(s.label for s in merged)
    lines = [s for s in merged if rates[s.label] >= min(3, max(rates.values()))]
    if len(lines) == len(merged):
        return [*unmerged, *lines], []
    ((fullest, _),) = Counter(s.facts["rate"] for s in merged).most_common(1)
    return [*unmerged, *lines], [*unmerged, *(s for s in merged if s.facts["rate"] == fullest)]


def plot_choices(summaries: Sequence[Summary], path: Path) -> None:
    """Draw one dataset at one rate: one row per variant, the closest to the unmerged model on top.

    Bars are the 95 % interval of the difference from the unmerged model, which is the dashed line.

    Args:
        summaries: models of one dataset; all merged ones at the same rate, at least one.
        path: the picture to write, with a suffix that Matplotlib knows.
    """
    unmerged = [s for s in summaries if not s.facts["rate"]]
    merged = [s for s in summaries if s.facts["rate"]]
    merged.sort(key=lambda s: s.quality["agreement"].mean)
    figure = Figure(figsize=(4 + 3.4 * len(PANELS), 1.3 + BAR * len(merged)), layout="constrained")
    rows = range(len(merged))
    every = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (metric, title) in zip(every, PANELS.items(), strict=True):
        for summary in unmerged:
            axes.axvline(100 * summary.quality[metric].mean, color="black", linestyle="--", linewidth=1)
        bars = [[_bar(s, metric)[end] for s in merged] for end in (0, 1)]
        means = [100 * s.quality[metric].mean for s in merged]
        axes.errorbar(means, rows, xerr=bars, fmt="o", color=COLOURS[1], markersize=4.5, elinewidth=0.9)
        axes.set(title=title, yticks=rows, yticklabels=[s.label for s in merged])
        axes.set_ylim(-1, len(merged))
        axes.grid(alpha=0.3)
        _tell_far(axes, means)
    figure.suptitle(f"{_told(merged[0])}, rate {merged[0].facts['rate']:g}; dashed: unmerged")
    figure.savefig(path, dpi=110)


def _tell_far(axes: Axes, means: Sequence[float]) -> None:
    """End the axis before variants that are far below the others, and write their values in their rows."""
    low, high = np.percentile(means, [25, 75])
    end = low - FAR * (high - low)
    far = [row for row, mean in enumerate(means) if mean < end]
    if far:
        axes.set_xlim(left=end)
    for row in far:
        axes.annotate(
            f"\N{LEFTWARDS ARROW} {means[row]:.1f}",
            (end, row),
            (4, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )


def _told(summary: Summary) -> str:
    """Title: dataset, its size, and the meaning of the bars."""
    counts = f"{summary.counts.pictures} pictures, {summary.counts.prompts} box prompts"
    return f"{summary.dataset}: {counts}; bars: 95 % interval of the difference from unmerged"


def plot(summaries: Sequence[Summary], path: Path) -> None:
    """Draw one dataset: one panel per metric, one line per method, the unmerged model dashed.

    Markers of methods are side by side around the requested rate. Bars are the 95 % interval of the
    difference from the unmerged model: a bar that does not touch the dashed line is a significant difference.

    Args:
        summaries: models of one dataset, at least one.
        path: the picture to write, with a suffix that Matplotlib knows.
    """
    figure = Figure(figsize=(5 * len(PANELS), 5), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, summaries, metric)
        axes.set(xlabel="requested rate (hollow: the method removes less)", title=title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(_told(summaries[0]))
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, summaries: Sequence[Summary], metric: str) -> None:
    merged = [s for s in summaries if s.facts["rate"]]
    rates = sorted({float(s.facts["rate"]) for s in merged})
    labels = list(dict.fromkeys(s.label for s in merged))
    width = SPREAD * min((after - before for before, after in pairwise(rates)), default=0.2)
    axes.set_xticks(rates)
    axes.grid(alpha=0.3)
    for summary in summaries:
        if not summary.facts["rate"]:
            level = 100 * summary.quality[metric].mean
            axes.axhline(level, color="black", linestyle="--", linewidth=1, label=summary.label)
    for index, (label, style) in enumerate(zip(labels, _styles(), strict=False)):
        mine = [s for s in merged if s.label == label]
        place = width * ((index + 0.5) / len(labels) - 0.5)
        _line(axes, mine, metric, place, style | {"label": label})


def _styles() -> Iterator[dict[str, Any]]:
    """A colour, a marker and a line style for each method; repeated colours have another line style."""
    lines = cycle([line for line in DASHES for _ in COLOURS])
    for colour, marker, line in zip(cycle(COLOURS), cycle(MARKERS), lines):
        yield {"color": colour, "marker": marker, "linestyle": line, "markersize": 5.5}


def _line(axes: Axes, mine: Sequence[Summary], metric: str, place: float, style: dict[str, Any]) -> None:
    """Draw one method with its rates in ascending order, shifted to the right by `place`."""
    x = [s.facts["rate"] + place for s in mine]
    y = [100 * s.quality[metric].mean for s in mine]
    bars = [[_bar(s, metric)[end] for s in mine] for end in (0, 1)]
    axes.errorbar(x, y, bars, capsize=2, linewidth=1.3, elinewidth=0.9, **style)
    hollow = [index for index, s in enumerate(mine) if s.facts["rate"] - _removed(s) > CAPPED]
    face = {"linestyle": "", "markerfacecolor": "white", "zorder": 3, "label": None}
    axes.plot([x[index] for index in hollow], [y[index] for index in hollow], **style | face)


def _removed(summary: Summary) -> float:
    """The larger of the effective rates of window and global blocks."""
    return float(max(summary.facts["effective_window"], summary.facts["effective_global"]))


def _bar(summary: Summary, metric: str) -> tuple[float, float]:
    """Lengths of a bar below and above the mean, in %; nan without an interval."""
    change = summary.change.get(metric)
    if change is None:
        return math.nan, math.nan
    return 100 * (change.mean - change.low), 100 * (change.high - change.mean)
