"""scripts/tuning.py: what it tells of the time of tuned encoders beside others."""

import json
from collections.abc import Callable
from pathlib import Path

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


def test_whole_encoders_are_timed_beside_what_their_blocks_predict(
    result: Path, run_script: Callable[[str, str], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    ms: dict[str, float] = {}

    def time(self: Stopwatch, part: Part) -> float:
        return ms.setdefault(part.name, float(100 + len(ms))) / 1e3

    monkeypatch.setattr(Stopwatch, "__call__", time)
    root = result.parent
    line = f"--root {root}/held-out -o {result} --measured {root}/notes.jsonl --image-size 256 --only times"
    code, _, err = run_script("tuning", line)
    assert code == 0, err
    rows = json.loads(result.read_text())["times"]
    assert [row["encoder"] for row in rows] == ["unmerged", "tuned", "structsam, rate 0.25"]
    whole = [time for name, time in ms.items() if name.startswith("whole")]
    assert [row["measured_ms"] for row in rows] == pytest.approx(whole)
    sums = [
        ms["rest"] + 4 * block(ms, 14, "Identity") + 2 * block(ms, 32, "Identity"),
        ms["rest"]
        + block(ms, 14, "Identity")
        + 3 * block(ms, 14, "Adjacent")
        + 2 * block(ms, 32, "Adjacent"),
        ms["rest"] + 4 * block(ms, 14, "StructSAM") + 2 * block(ms, 32, "StructSAM"),
    ]
    predicted = [whole[0] * one / sums[0] for one in sums]
    assert [row["predicted_ms"] for row in rows] == pytest.approx(predicted, rel=1e-6)
    text = result.with_suffix(".md").read_text()
    assert f"| 0.95 | tuned | {whole[1]:.1f} | {whole[1] / whole[0]:.0%} | {predicted[1]:.1f} | " in text
    assert "(cpu), medians of 5 measurements in turns" in text
    ratios = [time / one for time, one in zip(whole, predicted, strict=True)]
    assert f"are {min(ratios):.2f} to {max(ratios):.2f} times the predicted ones" in text
    known = len(ms)
    assert run_script("tuning", line)[0] == 0
    assert (result.with_suffix(".md").read_text(), len(ms)) == (text, known), "nothing is timed again"


def block(ms: dict[str, float], side: int, method: str) -> float:
    """What a block of vit_nano at 256 pixels took with the only setting of that method."""
    start = f"block Windows(height=32, width=32, side={side}) {method}("
    (time,) = (time for name, time in ms.items() if name.startswith(start))
    return time
