"""The result of a GPU run as Markdown, complete or not."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from structsam_runtime.benchmarking.machine import counted
from structsam_runtime.benchmarking.tables import markdown

Result = Mapping[str, Any]
EAGER, FUSED = "Meta's, eager", "Meta's, fused attention"
"""Names of the baselines."""


def page(result: Result) -> str:
    """The result as Markdown."""
    machine = result["machine"]
    where = ", ".join([*machine["gpus"], machine["processor"], counted(machine["cores"])])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    head = [
        f"# {', '.join(machine['gpus']) or 'Trial run without a GPU'}",
        f"{result['arch']} at {result['image_size']} pixels, {result['weights']}. {where}; {versions}; "
        f"{machine['date']}. {result['repeat']} runs each, made by one command: `{result['command']}`"
        + (f", at commit {result['commit']}." if result["commit"] else "."),
        f"Clocks: {'; '.join(machine['clocks']) or 'unknown'}",
    ]
    parts = [*head, *_told(result), *_checks(result), *_encoders(result), *_kernels(result)]
    return "\n\n".join(parts) + "\n"


def _told(result: Result) -> list[str]:
    """Lists of misses, of what was left out, and of notes; each only if there is any."""
    misses = [*result["misses"], *(f"{c['what']}: {m}" for c in result["checks"] for m in c["misses"])]
    lists = {"Misses": misses, "Left out": result["left_out"], "Notes": result["notes"]}
    return [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in told) for title, told in lists.items() if told
    ]


def _checks(result: Result) -> list[str]:
    if not result["checks"]:
        return []
    rows = [["compared with fp32 on the CPU", "same merges", "largest error", "mask IoU"]]
    for check in result["checks"]:
        plans, error, iou = check["plans"], check["error"], check["mask_iou"]
        rows.append(
            [
                check["what"],
                "" if plans is None else f"{plans:.2%}",
                "" if error is None else f"{error:.1e}",
                "" if iou is None else f"{iou:.4f}",
            ]
        )
    text = (
        "Errors are those of embeddings of standard deviation one, with the same plans; mask IoU is end to "
        "end. Meta's encoder is shown, not judged."
    )
    return ["## Correctness", text, markdown(rows)]


def _encoders(result: Result) -> list[str]:
    rows = result["encoders"]
    if not rows:
        return []
    text = (
        "Pictures and embeddings stay on the device. Encoders run one after another, the baselines also at "
        "the end; ratios are to the medians of all runs of a baseline in the same precision."
    )
    parts = ["## Latency of the encoder", text]
    for precision, batch in sorted({(row["precision"], row["batch"]) for row in rows}):
        mine = [row for row in rows if (row["precision"], row["batch"]) == (precision, batch)]
        table = [
            ["encoder", "median ms", "min to max", "images/s", "of eager", "of fused", "peak MB", "first s"]
        ]
        for row in mine:
            times = [1e3 * row[name] for name in ("median_s", "min_s", "max_s")]
            peak = row["peak_device"]
            table.append(
                [
                    row["name"] + (", compiled" if row["compiled"] else ""),
                    f"{times[0]:.2f}",
                    f"{times[1]:.2f} to {times[2]:.2f}",
                    f"{batch / row['median_s']:.1f}",
                    *(_ratio(mine, row, name) for name in (EAGER, FUSED)),
                    "" if peak is None else f"{peak / 1e6:.0f}",
                    f"{row['first_s']:.1f}",
                ]
            )
        parts += [f"### {precision}, batch {batch}", markdown(table)]
    return parts


def _ratio(rows: Sequence[Result], row: Result, baseline: str) -> str:
    """Median of a row over the median of all runs of a baseline; empty if it did not run."""
    runs = [s for one in rows if one["name"] == baseline and not one["compiled"] for s in one["seconds"]]
    return f"{row['median_s'] / statistics.median(runs):.2f}" if runs else ""


def _kernels(result: Result) -> list[str]:
    if not result["kernels"]:
        return []
    rows = [["layer", "batch", "step", "by", "median µs", "min to max", "of PyTorch"]]
    for row in result["kernels"]:
        times = [1e6 * row[name] for name in ("median_s", "min_s", "max_s")]
        spans = [f"{times[0]:.1f}", f"{times[1]:.1f} to {times[2]:.1f}", f"{row['ratio_median']:.2f}"]
        rows.append([row["layer"], str(row["batch"]), row["step"], row["by"], *spans])
    return ["## Latency of planning, merging, unmerging", "Interleaved; means of many calls.", markdown(rows)]
