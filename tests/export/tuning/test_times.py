"""scripts/tuning.py: what it tells of the time of tuned encoders beside others."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from structsam_export.merging.registry import MethodSpec
from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning.latency import Part
from structsam_export.tuning.stopwatch import Stopwatch

Ended = tuple[int | str | None, str, str]
SLOT = BlockRecipe(MethodSpec("adjacent"), 0.55, merge_mlp=True)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result with one budget, and a folder of pictures beside it."""
    tuned = Recipe((BlockRecipe(rate=0.0), *[SLOT] * 5), name="tuned95")
    rivals = [{"method": "structsam", "merge_mlp": False, "rate": 0.25, "gmac": 6.0}]
    found = {"budget": 0.95, "recipe": tuned.as_json(), "rivals": rivals, "gmac": 3.0, "unmerged_gmac": 6.5}
    unmet = {"budget": 0.98, "recipe": None, "rivals": [], "nearest": {}}
    interval = {"mean": 0.97, "low": 0.96, "high": 0.98}
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"budgets": [unmet, found | {"tried_on": interval, "unseen": interval}]}))
    for split in ("photographs", "salient"):
        (tmp_path / "held-out" / split / "images").mkdir(parents=True)
        picture = Image.fromarray(skimage.data.astronaut()[:64, :64])
        picture.save(tmp_path / "held-out" / split / "images" / "a.png")
    return path


def test_whole_encoders_are_timed_beside_the_sums_over_their_blocks(
    result: Path, run_script: Callable[[str, str], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[float]] = {}

    def time(self: Stopwatch, part: Part) -> float:
        every = asked.setdefault(part.name, [])
        every.append((1 + len(asked)) * 1e-3 + len(every) * 1e-4)
        return every[-1]

    monkeypatch.setattr(Stopwatch, "__call__", time)
    root = result.parent
    line = f"--root {root}/held-out -o {result} --measured {root}/notes.jsonl --image-size 256 --only times"
    code, _, err = run_script("tuning", line)
    assert code == 0, err
    rows = json.loads(result.read_text())["times"]
    assert [row["encoder"] for row in rows] == ["unmerged", "tuned", "structsam, rate 0.25"]
    ms = {name: 1e3 * statistics.median(every) for name, every in asked.items()}
    assert [row["measured_ms"] for row in rows] == pytest.approx(whole(ms))
    windows, whole_map = (f"Windows(height=32, width=32, side={side})" for side in (14, 32))
    expected = ms["rest"] + sum(times(ms, "Identity", windows) * 4 + times(ms, "Identity", whole_map) * 2)
    assert rows[0]["predicted_ms"] == pytest.approx(expected)
    text = result.with_suffix(".md").read_text()
    assert "| 0.95 | tuned | " in text
    assert "(cpu), medians of 5 measurements in turns" in text
    before = text
    assert run_script("tuning", line)[0] == 0
    assert result.with_suffix(".md").read_text() == before, "nothing is timed again"


def times(ms: dict[str, float], method: str, windows: str) -> list[float]:
    return [time for name, time in ms.items() if name.startswith(f"block {windows} {method}")]


def whole(ms: dict[str, Any]) -> list[float]:
    return [time for name, time in ms.items() if name.startswith("whole")]
