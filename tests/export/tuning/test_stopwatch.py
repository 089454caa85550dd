"""How one part of an encoder is timed on a runner."""

import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from structsam_export.choices import Engine, Target
from structsam_export.config import ExportConfig
from structsam_export.merging.registry import MethodSpec
from structsam_export.recipe import BlockRecipe
from structsam_export.tuning import stopwatch
from structsam_export.tuning.latency import Part
from structsam_export.tuning.notebook import Notebook
from structsam_export.tuning.stopwatch import IN, LONG, OUT, Stopwatch, timing, written_for
from structsam_runtime.errors import UserError
from structsam_runtime.runners import TABLE
from structsam_runtime.runners.onnxruntime import OnnxRuntimeRunner

SIZE = 256
NOTHING = Part("nothing", nn.Identity, (1, 2, 2, 3))


@pytest.fixture
def config(tiny: str) -> ExportConfig:
    """A small SAM with random weights."""
    return ExportConfig(tiny, random_weights=True, image_size=SIZE)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is measured here."""
    monkeypatch.setattr(stopwatch, "CACHE", 2**10)


class Doubling(Stopwatch):
    """A stopwatch whose parts are all one small graph, which takes no tracer."""

    def _made(self, part: Part, path: Path) -> Path:
        shape = list(part.shape)
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (IN, OUT)]
        graph = helper.make_graph([helper.make_node("Add", [IN, IN], [OUT])], "g", values[:1], values[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
        return path


def ticking(seconds: Iterator[float]) -> Callable[[], float]:
    """A clock on which runs take these seconds, one after another."""
    now, running = 0.0, False

    def clock() -> float:
        nonlocal now, running
        now, running = now + (next(seconds) if running else 100.0), not running
        return now

    return clock


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 16).map(lambda number: number / 64), min_size=1, max_size=9))
def test_runs_are_timed_until_they_took_long_enough(
    config: ExportConfig, tmp_path: Path, seconds: list[float]
) -> None:
    runs = itertools.chain(seconds, itertools.repeat(LONG))
    every = [*seconds, LONG]
    number = next(n for n in range(1, len(every) + 1) if sum(every[:n]) >= LONG)
    made = Doubling(config, "cpu", tmp_path, ticking(runs))(NOTHING)
    assert made == statistics.median(every[:number])


def test_a_graph_is_made_once(config: ExportConfig, tmp_path: Path) -> None:
    one = Doubling(config, "cpu", tmp_path, ticking(itertools.repeat(1.0)))
    for part in (NOTHING, Part("other", nn.Identity, (1, 1, 1, 1)), NOTHING):
        assert one(part) == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "1.onnx"]


@torch.no_grad()
@pytest.mark.export
def test_the_graph_computes_what_the_block_does(
    config: ExportConfig, build_encoder: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = build_encoder(SIZE, window_size=8)
    with timing(config, "cpu", tmp_path, Notebook(), "") as latency:
        part = latency.block(encoder, 0, BlockRecipe(MethodSpec("adjacent"), 0.5, merge_mlp=True))
        assert latency.time(part) > 0
        (path,) = tmp_path.rglob("*.onnx")
        x = np.random.default_rng(0).standard_normal(part.shape, np.float32)
        with OnnxRuntimeRunner(path) as runner:
            made = runner.infer({IN: x})[OUT]
    np.testing.assert_allclose(made, part.make()(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)
    assert not list(tmp_path.iterdir()), "graphs are removed"


def test_a_graph_is_written_for_its_runner(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stopwatch, "EngineBuilder", lambda library: SimpleNamespace(require_gpu=lambda: None))
        patch.setattr(
            stopwatch,
            "kind_of",
            lambda runner: SimpleNamespace(**{**vars(TABLE[runner]), "library": lambda name: name}),
        )
        made = {runner: written_for(config, runner) for runner in TABLE}
    assert {runner: one.engine for runner, one in made.items()} == {
        "cpu": None,
        "openvino": None,
        "cuda": None,
        "tensorrt": Engine.TENSORRT,
        "tensorrt-rtx": Engine.TENSORRT_RTX,
    }
    assert made["cpu"] == made["openvino"] == config
    assert made["cuda"].written_for is Target.CUDA
    assert made["tensorrt"].written_for is Target.TENSORRT10


@pytest.mark.parametrize(
    ("runner", "message"),
    [("gpu", "runner 'gpu' is unknown, expected one of cpu, "), ("trt-ep", "runner 'trt-ep' was removed")],
)
def test_a_runner_that_is_none_is_one_line(config: ExportConfig, runner: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        written_for(config, runner)


def test_a_runner_that_is_not_installed_is_one_line(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise UserError(f"{name} is not installed")

    monkeypatch.setitem(TABLE, "openvino", SimpleNamespace(**{**vars(TABLE["openvino"]), "library": absent}))
    with pytest.raises(UserError, match="openvino is not installed"):
        written_for(config, "openvino")


def test_a_folder_that_is_gone_is_one_line(config: ExportConfig, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="cannot be written"),
        timing(config, "cpu", tmp_path / "none", Notebook(), ""),
    ):
        pass
