"""scripts/attention.py, builds.py and passes.py as a person calls them, on a small SAM: what they tell."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from structsam_export import pipeline
from structsam_export.choices import Attention, Target
from structsam_export.encoder.forms import Bias
from structsam_export.graph.passes import PASSES
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_runtime.build import BuildError, EngineBuilder

Ended = tuple[int | str | None, str, str]
RunScript = Callable[[str, str], Ended]


@pytest.fixture
def tiny(tiny_architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> str:
    """The small SAM of other tests with a block of each kind, which is all that is looked at here."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", replace(tiny_architecture, depth=2, global_blocks=(1,)))
    return "tiny"


@pytest.mark.export
def test_every_form_is_timed_and_compared_with_the_gathered_one(
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
    assert any(row["error"] > 0 for row in result["layers"]), "or nothing was compared"


@pytest.mark.export
def test_a_form_that_computes_something_else_is_not_timed(
    tiny: str, run_script: RunScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bias, "mask", lambda self: 0 * self.relative @ self.shares.transpose(2, 3))
    code, _, err = run_script(
        "attention", f"-o {tmp_path}/forms.json --arch tiny --image-size 224 --repeat 1"
    )
    assert code == 3
    assert "failed: window layer at rate 0 differs from gather in mask by " in err
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_every_dialect_is_built(tiny: str, run_script: RunScript, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    code, out, err = run_script("builds", f"-o {tmp_path}/builds.json --archs tiny --image-size 224")
    assert code == 0, err
    result = json.loads((tmp_path / "builds.json").read_text())
    assert (tmp_path / "builds.md").read_text() in out
    assert {target for row in result["builds"] for target in row["targets"]} == set(Target)
    assert [(row["opset"], row["attention"]) for row in result["builds"]] == [
        *((20, "widened"), (20, "mask"), (23, "operator"))
    ]
    assert all(row["engine_bytes"] > 1e5 for row in result["builds"])


@pytest.mark.export
@pytest.mark.parametrize("precision", ["int8", "fp8-fp16"])
def test_engines_multiply_all_linear_layers_in_8_bits(
    tiny: str, precision: str, run_script: RunScript, tmp_path: Path
) -> None:
    """Four in each of two blocks, in every dialect."""
    pytest.importorskip("tensorrt_rtx")
    line = f"-o {tmp_path}/builds.json --archs tiny --image-size 224 --precision {precision}"
    code, out, err = run_script("builds", line)
    assert code == 0, err
    kind, other = ("int8", "fp8") if "int8" in precision else ("fp8", "int8")
    assert f"{kind} products" in out
    assert f"{other} products" not in out
    result = json.loads((tmp_path / "builds.json").read_text())
    assert [row[f"{kind}_products"] for row in result["builds"]] == [8, 8, 8]
    assert ("8.6" in result["capabilities"]) == (kind == "int8")


@pytest.mark.export
def test_bf16_is_built_in_the_dialects_that_have_it(tiny: str, run_script: RunScript, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    line = f"-o {tmp_path}/builds.json --archs tiny --image-size 224 --precision bf16"
    code, _, err = run_script("builds", line)
    assert code == 0, err
    builds = json.loads((tmp_path / "builds.json").read_text())["builds"]
    told = [(row["targets"], row["opset"], row["attention"]) for row in builds]
    assert told == [(["cpu", "cuda"], 23, "widened"), (["tensorrt11", "rtx"], 23, "operator")]


def test_a_graph_that_does_not_build_is_one_line(
    tiny: str, run_script: RunScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")

    def refuse(*_: object) -> None:
        raise BuildError("tensorrt-rtx cannot parse encoder.onnx: a reason")

    monkeypatch.setattr(pipeline, "build_encoder", lambda *_: None)
    monkeypatch.setattr(EngineBuilder, "build", refuse)
    code, _, err = run_script("builds", f"-o {tmp_path}/builds.json --archs tiny --image-size 224")
    assert (code, err) == (3, "failed: tensorrt-rtx cannot parse encoder.onnx: a reason\n")


@pytest.mark.export
def test_every_rule_is_left_out_once(tiny: str, run_script: RunScript, tmp_path: Path) -> None:
    code, out, err = run_script(
        "passes", f"-o {tmp_path}/passes.json --arch tiny --image-size 224 --repeat 1"
    )
    assert code == 0, err
    result = json.loads((tmp_path / "passes.json").read_text())
    assert (tmp_path / "passes.md").read_text() in out
    nodes = {row["name"]: row["nodes"] for row in result["rules"]}
    assert list(nodes) == ["all rules", "no rule", *(f"without {rule.__name__}" for rule in PASSES)]
    everything, nothing = nodes["all rules"], nodes["no rule"]
    assert set(everything) == {"encoder", "fp16", "open batch", "decoder"}
    assert all(everything[graph] < nothing[graph] for graph in everything)
    assert all(everything[graph] <= other[graph] for other in nodes.values() for graph in everything)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("builds -o b.json --archs vit_b,foo", "--archs foo is unknown; expected some of vit_nano,"),
        ("attention -o a.json --runner tensorrt", "--runner tensorrt is unknown; expected cpu or cuda"),
    ],
)
def test_a_usage_error_is_reported_before_anything_is_made(
    run_script: RunScript, line: str, told: str
) -> None:
    code, out, err = run_script(*line.split(maxsplit=1))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1
