"""The parts of a GPU run, on the CPU with a small SAM."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from structsam_export.choices import Attention, Engine
from structsam_export.config import ExportConfig
from structsam_export.gpu import exports, parts
from structsam_export.gpu.original import Original
from structsam_export.gpu.parts import FASTEST, Bench, Part
from structsam_export.gpu.record import Record
from structsam_runtime import UserError

MakeConfig = Callable[..., ExportConfig]


@pytest.fixture
def bench(
    record: Record,
    original: Original,
    at: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """At two rates and batch sizes, with every library there."""
    monkeypatch.setattr(exports, "missing", lambda device: "")
    monkeypatch.setattr(parts.shutil, "which", lambda name: name)
    return Bench(record, original, [at(0), at(0.5)], [1, 2], 1, None, tmp_path)


def names(some: list[Part]) -> list[str]:
    return [part.what for part in some]


def test_all_parts_once_the_most_informative_first(bench: Bench) -> None:
    told = names(bench.parts())
    assert len(set(told)) == len(told)
    assert told == [
        "kernels: build, and check of small layers",
        "kernels, window layer at rate 0.5",
        "kernels, global layer at rate 0.5",
        "Meta's, eager, fp16, batch 1, 2",
        "Meta's, fused attention, fp16, batch 1, 2",
        "ours at rate 0, fp16, batch 1, 2",
        "ours at rate 0.5, fp16, batch 1, 2",
        "ours at rate 0.5, with the kernels, fp16, batch 1, 2",
        *(
            f"steps, {kind} layer at rate 0.5, batch {batch}"
            for kind in ("window", "global")
            for batch in (1, 2)
        ),
        "Meta's, eager, fp32, batch 1",
        "ours at rate 0.5, fp32, batch 1",
        *(
            f"{name}, compiled, fp16, batch {batch}"
            for batch in (1, 2)
            for name in ("Meta's, fused attention", "ours at rate 0", "ours at rate 0.5")
        ),
        *(f"ours at rate 0.5, {form}, fp16, batch 1, 2" for form in Attention if form is not FASTEST),
        "kernels: racecheck of small layers",
        "export at rate 0, cpu",
        "export at rate 0.5, cpu",
        "Meta's, eager, fp16, batch 1, 2, again",
        "Meta's, fused attention, fp16, batch 1, 2, again",
    ]
    assert [part.last for part in bench.parts()] == [False] * (len(told) - 2) + [True] * 2


def test_compiled_encoders_come_in_the_order_of_interest(bench: Bench, at: MakeConfig) -> None:
    bench.configs, bench.sizes = [at(rate) for rate in (0, 0.35, 0.55, 0.75)], [1]
    compiled = [name for name in names(bench.parts()) if "compiled" in name]
    assert [name.split(",")[0].removeprefix("ours at rate ") for name in compiled] == [
        "Meta's", "0.55", "0", "0.35", "0.75"
    ]  # fmt: skip


def test_libraries_that_are_not_there_are_noted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "missing", lambda device: "polygraphy is not installed")
    monkeypatch.setattr(parts.shutil, "which", lambda name: None)
    bench.run(["kernels", "compiled", "export"])
    assert bench.record.content["notes"] == [
        "no kernels: g++ is not installed",
        "no compiled encoders: torch.compile needs a C compiler",
        "no exports in ONNX Runtime: polygraphy is not installed",
    ]
    assert not bench.record.content["misses"]


def test_engines_are_built_if_asked_for(bench: Bench) -> None:
    bench.engine = Engine.TENSORRT
    told = [name.removeprefix("export at rate ") for name in names(bench.parts()) if "export" in name]
    assert told == ["0, cpu", "0.5, cpu", "0, tensorrt", "0.5, tensorrt"]


def test_only_some_parts_in_the_order_of_the_texts(bench: Bench) -> None:
    told = names(bench.chosen(["rate 0.5, mask", "eager, fp16", "0.5, fp32", "eager"]))
    assert told == [
        "ours at rate 0.5, mask, fp16, batch 1, 2",
        "Meta's, eager, fp16, batch 1, 2",
        "Meta's, eager, fp16, batch 1, 2, again",
        "ours at rate 0.5, fp32, batch 1",
        "Meta's, eager, fp32, batch 1",
    ]


def test_kernels_are_built_before_parts_that_need_them(bench: Bench) -> None:
    told = names(bench.chosen(["0, fp16", "with the kernels"]))
    assert told[:2] == ["kernels: build, and check of small layers", "ours at rate 0, fp16, batch 1, 2"]
    assert names(bench.chosen(["build", "racecheck"])) == [bench.parts()[0].what, names(bench.parts())[-5]]


def test_a_text_in_no_name_is_refused_before_anything_runs(bench: Bench) -> None:
    with pytest.raises(UserError, match="--only kernel5 is in no name of a part; expected a piece of one"):
        bench.run(["eager", "kernel5"])
    assert not bench.record.output.exists()


def test_time_is_kept_for_the_baselines_at_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(bench.record, "attempt", lambda what, *_: kept.append((what, bench.record.reserve)))
    bench.run()
    assert {reserve for what, reserve in kept if what.endswith("again")} == {0}
    assert {reserve for what, reserve in kept if not what.endswith("again")} == {15}
    assert not [what for what, _ in kept if "with the kernels" in what], "they could not be built"


# Encoders


def test_encoders_are_checked_and_timed(bench: Bench) -> None:
    bench.run(["eager, fp16, batch 1, 2", "rate 0, fp16", "rate 0.5, fp16", "rate 0.5, fp32"])
    content = bench.record.content
    assert not content["misses"]
    checks = {check["what"]: check for check in content["checks"]}
    assert list(checks) == [
        "Meta's, eager, fp16",
        "ours at rate 0, fp16",
        "ours at rate 0.5, fp16",
        "ours at rate 0.5, fp32",
    ]
    assert not any(check["misses"] for check in checks.values())
    assert checks["ours at rate 0.5, fp32"]["plans"] == 1
    assert checks["ours at rate 0, fp16"]["plans"] is None
    assert checks["ours at rate 0.5, fp16"]["error"] > checks["ours at rate 0.5, fp32"]["error"] > 0
    raced = [(row["name"], row["batch"]) for row in content["encoders"]]
    eager = [("Meta's, eager", 1), ("Meta's, eager", 2)]
    assert raced == [
        *eager, *eager,  # the second time is at the end of the run
        *((f"ours at rate {rate}", batch) for rate in (0, 0.5) for batch in (1, 2)), ("ours at rate 0.5", 1),
    ]  # fmt: skip
    assert all(row["min_s"] <= row["median_s"] <= row["max_s"] for row in content["encoders"])


def test_a_contestant_that_raises_is_a_miss_and_the_rest_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> nn.Module:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Original, "ours", fail)
    bench.run(["0.5, fp16", "rate 0, fp16", "eager, fp32"])
    assert bench.record.content["misses"] == [
        f"ours at rate {rate}, fp16, batch 1, 2: RuntimeError: CUDA out of memory" for rate in ("0.5", "0")
    ]
    assert [row["name"] for row in bench.record.content["encoders"]] == ["Meta's, eager"]


@pytest.mark.parametrize(("name", "judged"), [("ours at rate 0.5, fp16", True), ("eager, fp16", False)])
def test_an_encoder_that_computes_something_else_is_a_miss(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, judged: bool
) -> None:
    """Unless it is Meta's own."""

    def other(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def made(*arguments: Any) -> nn.Module:
            module: Any = make(*arguments)
            neck = getattr(module, "encoder", None) or module.module
            with torch.no_grad():
                neck.neck[0].weight += 0.1 * torch.randn_like(neck.neck[0].weight)
            return module

        return made

    for method in ("ours", "meta"):
        monkeypatch.setattr(Original, method, other(getattr(Original, method)))
    bench.sizes = [1]
    bench.run([name])
    assert [bool(check["misses"]) for check in bench.record.content["checks"][:1]] == [judged]
    assert bench.record.content["encoders"], "it is timed all the same"


def test_values_that_are_not_finite_are_a_miss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class NotFinite(nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.full((len(image), 256, 20, 20), torch.nan),)

    monkeypatch.setattr(Original, "meta", lambda *_: NotFinite())
    bench.run(["Meta's, eager, fp32"])
    (miss,) = bench.record.content["misses"]
    assert "the embedding contains NaN or infinity" in miss


def test_steps_of_a_layer_are_timed_without_kernels(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.layers, "CALLS", 1)
    bench.run(["steps, window layer at rate 0.5, batch 2"])
    rows = [(row["layer"], row["batch"], row["step"], row["by"]) for row in bench.record.content["kernels"]]
    assert rows == [("window layer at rate 0.5", 2, step, "PyTorch") for step in ("plan", "merge", "unmerge")]
