"""Latencies of a benchmark as a bar chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..colours import BLUE, code


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the median latency of each encoder as a bar, with a line from its fastest to its slowest run.

    Args:
        result: from `race.race`.
        path: the picture to write, with a suffix that Matplotlib knows.
    """
    rows = result["encoders"][::-1]  # from the bottom up
    medians = [row["median_s"] for row in rows]
    reach = [
        [median - row["min_s"] for median, row in zip(medians, rows, strict=True)],
        [row["max_s"] - median for median, row in zip(medians, rows, strict=True)],
    ]
    several = len({row["runner"] for row in rows}) > 1
    names = [f"{row['name']}, {row['runner']}" if several else row["name"] for row in rows]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, medians, xerr=reach, color=code(BLUE), ecolor="black", capsize=3)
    machine = result["machine"]
    where = ", ".join([*(machine["gpus"] or [machine["processor"]]), machine["library"]])
    axes.set(xlabel="seconds per image: median, fastest to slowest run", title=where)
    figure.savefig(path, dpi=120)
