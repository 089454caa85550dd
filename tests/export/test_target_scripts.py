"""scripts/attention.py and scripts/builds.py as a person calls them, on small layers: what they tell."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from structsam_export.choices import Attention, Target

Ended = tuple[int | str | None, str, str]
RunScript = Callable[[str, str], Ended]


@pytest.mark.slow
def test_every_form_is_timed_and_held_against_the_gathered_one(
    tiny: str, run_script: RunScript, tmp_path: Path
) -> None:
    line = f"-o {tmp_path}/forms.json --arch tiny --image-size 320 --repeat 2 --fp16"
    code, out, err = run_script("attention", line)
    assert code == 0, err
    result = json.loads((tmp_path / "forms.json").read_text())
    assert (tmp_path / "forms.md").read_text() in out
    assert result["precision"] == "fp16"
    told = [(row["layer"], row["rate"], row["form"]) for row in result["layers"]]
    assert told == [
        (kind, rate, form) for kind in ("window", "global") for rate in (0, 0.55) for form in Attention
    ]
    assert all(row["min_s"] <= row["median_s"] <= row["max_s"] for row in result["layers"])
    assert all(row["error"] == 0 for row in result["layers"] if row["form"] == Attention.GATHER)
    assert any(row["error"] > 0 for row in result["layers"]), "or nothing was compared"


@pytest.mark.slow
def test_every_dialect_is_built(tiny: str, run_script: RunScript, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    code, out, err = run_script("builds", f"-o {tmp_path}/builds.json --archs tiny --image-size 224")
    assert code == 0, err
    result = json.loads((tmp_path / "builds.json").read_text())
    assert (tmp_path / "builds.md").read_text() in out
    assert {target for row in result["builds"] for target in row["targets"]} == set(Target)
    assert [(row["opset"], row["attention"]) for row in result["builds"]] == [
        (20, "widened"),
        (23, "operator"),
    ]
    assert all(row["engine_bytes"] > 1e5 for row in result["builds"])
