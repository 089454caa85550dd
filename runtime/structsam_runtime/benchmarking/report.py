"""The result of a benchmark as Markdown tables."""

from collections.abc import Mapping
from typing import Any

from .tables import markdown
from .timing import conditions

SHOWN = 8
"""Number of operators with a column of their own; the others share one."""


def table(result: Mapping[str, Any]) -> str:
    """Tables of a result of `race.race`: encoders, operators, and the decoder with many prompts."""
    machine = result["machine"]
    clocks = f"Clocks: {'; '.join(machine['clocks']) or 'unknown'}"
    columns = [
        "encoder",
        "runner",
        "GMAC",
        "median s",
        "min to max s",
        "images/s",
        "time by medians",
        "by minima",
        "peak memory MB",
        "same merges",
        "mask IoU",
    ]
    rows = [
        [
            row["name"],
            row["runner"],
            f"{row['gmac']:.1f}",
            f"{row['median_s']:.3g}",
            f"{row['min_s']:.3g} to {row['max_s']:.3g}",
            f"{1 / row['median_s']:.3g}",
            f"{row['ratio_median']:.2f}",
            f"{row['ratio_min']:.2f}",
            _megabytes(row),
            f"{row['plans']:.2%}" if row.get("plans") is not None else "",
            f"{row['mask_iou']:.4f}" if "mask_iou" in row else "",
        ]
        for row in result["encoders"]
    ]
    tails = [
        f"{many['boxes']} boxes on one picture ({many['runner']}): {many['one_call_s']:.2f} s in one call of "
        f"the decoder, {many['call_for_each_s']:.2f} s in {many['boxes']} calls (ratio {many['ratio']:.2f})"
        for many in result["decoders"]
    ]
    profile = [_operator_table(result["operators"])] if result["operators"] else []
    return "\n\n".join([conditions(result), clocks, markdown([columns, *rows]), *profile, *tails]) + "\n"


def _megabytes(row: Mapping[str, Any]) -> str:
    """Peak memory of the process and, if it was measured, of the GPU, in MB."""
    sizes = [row["peak_host"], row["peak_device"]]
    return " + GPU ".join(f"{size / 1e6:.0f}" for size in sizes if size is not None)


def _operator_table(profile: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds by operator; columns in descending order of their sum over all encoders."""
    total: dict[str, float] = {}
    for seconds in profile.values():
        for kind, time_taken in seconds.items():
            total[kind] = total.get(kind, 0.0) + time_taken
    shown = sorted(total, key=lambda kind: -total[kind])[:SHOWN]
    rows = [["seconds by operator", *shown, "others"]]
    for name, seconds in profile.items():
        others = sum(time_taken for kind, time_taken in seconds.items() if kind not in shown)
        rows.append([name, *(f"{seconds.get(kind, 0.0):.3f}" for kind in shown), f"{others:.3f}"])
    return markdown(rows)
