"""Quality against rate (paper, figure 6), and every choice at one rate."""

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
"""Of methods: black is the unmerged model's."""
MARKERS = "osD^v<>XPd*p"
DASHES = ("-", ":")
SPREAD = 0.4
"""Share of the distance between two rates over which methods are set side by side."""
CAPPED = 0.01
"""A method that removes so much less than it was asked for is drawn hollow."""
BAR = 0.26
"""Inches of height that a choice gets."""
FAR = 6
"""A choice that lies this many widths of the middle half below it is told, not drawn to scale: it would leave
all others no room to differ in."""


def parted(summaries: Sequence[Summary]) -> tuple[list[Summary], list[Summary]]:
    """What is worth a line over the rates, and what is worth a place among all at one rate.

    Args:
        summaries: of one dataset.

    Returns:
        For `plot`, methods at as many rates as any, and for `plot_choices`, everything at the rate that most
        were evaluated at, or nothing if the lines show it all; both with the unmerged model.
    """
    merged = [s for s in summaries if s.facts["rate"]]
    unmerged = [s for s in summaries if not s.facts["rate"]]
    rates = Counter(s.label for s in merged)
    lines = [s for s in merged if rates[s.label] == max(rates.values())]
    if len(lines) == len(merged):
        return [*unmerged, *lines], []
    ((fullest, _),) = Counter(s.facts["rate"] for s in merged).most_common(1)
    return [*unmerged, *lines], [*unmerged, *(s for s in merged if s.facts["rate"] == fullest)]


def plot_choices(summaries: Sequence[Summary], path: Path) -> None:
    """Draw one dataset at one rate: a row for each way of merging, closest to the unmerged model on top.

    Bars are the 95 % interval of the difference from the unmerged model, whose level is dashed.

    Args:
        summaries: of one dataset; all merged ones at the same rate, at least one.
        path: of the picture, with a suffix that Matplotlib knows.
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
    """Let the axis end before choices that lie far below all others, and write theirs at its end, by row."""
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
    """What a picture shows: how much of which dataset, and what the bars are."""
    counts = f"{summary.counts.pictures} pictures, {summary.counts.prompts} box prompts"
    return f"{summary.dataset}: {counts}; bars: 95 % interval of the difference from unmerged"


def plot(summaries: Sequence[Summary], path: Path) -> None:
    """Draw one dataset: a panel for each metric, a line for each method, the unmerged model dashed.

    Methods stand side by side at the rate that was asked for. Bars are the 95 % interval of the difference
    from the unmerged model, so that a bar that does not touch the dashed line tells a difference.

    Args:
        summaries: of one dataset; at least one.
        path: of the picture, with a suffix that Matplotlib knows.
    """
    figure = Figure(figsize=(5 * len(PANELS), 5), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, summaries, metric)
        axes.set(xlabel="rate asked for (hollow: the method removes less)", title=title)
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
    """A colour, a marker and a line for each method; the colours that come again have another line."""
    lines = cycle([line for line in DASHES for _ in COLOURS])
    for colour, marker, line in zip(cycle(COLOURS), cycle(MARKERS), lines):
        yield {"color": colour, "marker": marker, "linestyle": line, "markersize": 5.5}


def _line(axes: Axes, mine: Sequence[Summary], metric: str, place: float, style: dict[str, Any]) -> None:
    """One method: its rates in ascending order, `place` to the right of where they are."""
    x = [s.facts["rate"] + place for s in mine]
    y = [100 * s.quality[metric].mean for s in mine]
    bars = [[_bar(s, metric)[end] for s in mine] for end in (0, 1)]
    axes.errorbar(x, y, bars, capsize=2, linewidth=1.3, elinewidth=0.9, **style)
    hollow = [index for index, s in enumerate(mine) if s.facts["rate"] - _removed(s) > CAPPED]
    face = {"linestyle": "", "markerfacecolor": "white", "zorder": 3, "label": None}
    axes.plot([x[index] for index in hollow], [y[index] for index in hollow], **style | face)


def _removed(summary: Summary) -> float:
    """The largest share of tokens that a kind of block really loses."""
    return float(max(summary.facts["effective_window"], summary.facts["effective_global"]))


def _bar(summary: Summary, metric: str) -> tuple[float, float]:
    """How far a bar reaches down and up, in %; nan where no interval is known."""
    change = summary.change.get(metric)
    if change is None:
        return math.nan, math.nan
    return 100 * (change.mean - change.low), 100 * (change.high - change.mean)
