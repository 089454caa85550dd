"""The page of a GPU run, at any stage of it."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from structsam_export.gpu.page import EAGER, FUSED, page
from structsam_export.gpu.record import Record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def encoder(name: str, seconds: list[float], **changes: Any) -> dict[str, Any]:
    """A row of an encoder."""
    times = {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}
    row = {"name": name, "compiled": False, "precision": "fp16", "batch": 2, "first_s": 1.5}
    return row | {"peak_device": 3_000_000, "seconds": seconds} | times | changes


def rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without the names of its columns."""
    lines = text.partition(f"{heading}\n")[2].strip().partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("result", sorted(BENCHMARKS.glob("gpu-*.json")), ids=lambda path: path.stem)
def test_a_page_is_that_of_its_result(result: Path) -> None:
    assert result.with_suffix(".md").read_text() == page(json.loads(result.read_text()))


def test_an_empty_result_has_a_page(record: Record) -> None:
    text = page(record.content)
    assert text.startswith("# a GPU\n")
    assert "##" not in text


def test_it_says_what_it_was_made_with(record: Record) -> None:
    assert "made by one command: `python scripts/gpu.py`.\n" in page(record.content)
    assert "`python scripts/gpu.py`, at commit abc." in page(record.content | {"commit": "abc"})


def test_misses_of_checks_are_told_first(record: Record) -> None:
    bad = {"what": "kernels", "plans": 0.5, "error": 0.25, "mask_iou": None, "misses": ["means differ"]}
    good = {"what": "ours", "plans": None, "error": None, "mask_iou": 0.75, "misses": []}
    text = page(record.content | {"misses": ["other: ValueError"], "checks": [bad, good], "notes": ["a"]})
    assert "## Misses\n\n- other: ValueError\n- kernels: means differ\n\n## Notes\n\n- a\n" in text
    assert rows(text, "not judged.") == [["kernels", "50.00%", "2.5e-01", ""], ["ours", "", "", "0.7500"]]


def test_ratios_are_to_all_runs_of_a_baseline_of_the_same_kind(record: Record) -> None:
    """Before and after; not in another precision or batch, and not compiled."""
    encoders = [
        encoder(EAGER, [0.1, 0.3]),
        encoder("ours", [0.2]),
        encoder("ours", [0.2], batch=4),
        encoder(EAGER, [9.0], compiled=True),
        encoder(EAGER, [8.0], precision="fp32"),
        encoder(EAGER, [0.4, 0.5], first_s=0.0),
    ]
    text = page(record.content | {"encoders": encoders})
    at_two = rows(text, "### fp16, batch 2")
    assert at_two[1] == ["ours", "200.00", "200.00 to 200.00", "10.0", f"{0.2 / 0.35:.2f}", "", "3", "1.5"]
    assert at_two[2][0] == f"{EAGER}, compiled"
    assert rows(text, "### fp16, batch 4")[0][4:6] == ["", ""]
    assert FUSED not in text
    assert text.index("### fp16, batch 2") < text.index("### fp16, batch 4") < text.index("### fp32, batch 2")


def test_steps_are_in_microseconds(record: Record) -> None:
    row = {"layer": "a layer", "batch": 8, "step": "plan", "by": "kernels", "ratio_median": 0.125}
    times = {"median_s": 1e-4, "min_s": 5e-5, "max_s": 2e-3}
    text = page(record.content | {"kernels": [row | times]})
    expected = ["a layer", "8", "plan", "kernels", "100.0", "50.0 to 2000.0", "0.12"]
    assert rows(text, "means of many calls.") == [expected]
