"""The graph with plugins: run with the kernels in their place, it is the encoder that PyTorch runs."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from structsam_export import pipeline
from structsam_export.choices import Engine, Gradient, Precision
from structsam_export.config import ExportConfig
from structsam_export.encoder.plugins import DOMAIN
from structsam_export.merging import Identity, StructSAM, ToMe
from structsam_export.merging.kernels import TensorKernels
from structsam_plugins import Kernels, Layer
from structsam_plugins.build import build
from structsam_runtime import UserError
from structsam_runtime.engines import PLUGIN_GRAPH
from structsam_runtime.progress import Progress

SIZE = 256  # 16 x 16 tokens: windows are padded
NAMES = ("Score", "Select", "Merge", "Unmerge")


@pytest.fixture(scope="session")
def operators(tmp_path_factory: pytest.TempPathFactory) -> list[type[OpRun]]:
    """The four operators for ONNX's reference implementation, by the kernels for the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to compile the kernels with")
    kernels = TensorKernels(Kernels(build("cpu", tmp_path_factory.mktemp("kernels"))))

    def score(shape: Callable[..., Layer], x: Tensor) -> Any:
        return kernels.score(shape(x), x)

    def select(shape: Callable[..., Layer], score: Tensor, member: Tensor) -> Any:
        return kernels.select(shape(score.new_empty(len(score), 1, 1, 1), whole=True), score, member)

    def merge(shape: Callable[..., Layer], x: Tensor, token: Tensor) -> Any:
        return (kernels.merge(shape(x), x, token),)

    def unmerge(shape: Callable[..., Layer], slots: Tensor, slot: Tensor, residual: Tensor) -> Any:
        return (kernels.unmerge(shape(residual), slots, slot, residual),)

    def operator(name: str, call: Callable[..., Any]) -> type[OpRun]:
        def run(self: Any, *inputs: Any, side: int, cell: int, merged: int, heads: int) -> tuple[Any, ...]:
            def shape(x: Tensor, whole: bool = False) -> Layer:
                sizes = (len(x), side, side, heads) if whole else tuple(x.shape)
                return Layer(*sizes, side, cell, merged, heads)

            outputs = call(shape, *(torch.from_numpy(np.ascontiguousarray(values)) for values in inputs))
            return tuple(output.numpy() for output in outputs)

        return type(f"Structsam{name}", (OpRun,), {"op_domain": DOMAIN, "_run": run})

    return [operator(n, call) for n, call in zip(NAMES, (score, select, merge, unmerge), strict=True)]


@pytest.fixture
def config(tiny: str, tmp_path: Path) -> Callable[..., ExportConfig]:
    """An export of two blocks that asks for plugins, which need not be there before an engine is built."""

    def make(**changes: Any) -> ExportConfig:
        plain: dict[str, Any] = {"arch": "two", "random_weights": True, "image_size": SIZE}
        plain |= {"engine": Engine.TENSORRT, "plugins": tmp_path / "library.so"}
        return ExportConfig.of(**plain | changes)

    return make


def graph(config: ExportConfig, folder: Path, quiet: Progress) -> tuple[onnx.ModelProto, Any]:
    """The graph that the engine would be built from, and the encoder that it comes from."""
    encoder = pipeline.load(config).image_encoder
    path = pipeline.build_plugin_graph(config, encoder, folder, quiet)
    return onnx.load(path), encoder


@pytest.mark.export
@pytest.mark.parametrize("half", [False, True])
def test_it_computes_the_embedding(
    half: bool,
    config: Callable[..., ExportConfig],
    operators: list[type[OpRun]],
    tmp_path: Path,
    photographs: Any,
    quiet: Progress,
) -> None:
    precision = Precision.FP16 if half else Precision.FP32
    model, encoder = graph(config(precision=precision, dynamic_batch=True), tmp_path, quiet)
    onnx.checker.check_model(model)
    image = photographs(SIZE)[:2]
    (embedding,) = ReferenceEvaluator(model, new_ops=operators).run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = encoder(image)
    error = (torch.from_numpy(embedding) - expected).abs().max() / expected.abs().max()
    assert embedding.dtype == np.float32
    assert error < (5e-2 if half else 1e-5)


def test_only_what_merges_has_plugins_and_nothing_else_plans(
    config: Callable[..., ExportConfig], tmp_path: Path, quiet: Progress
) -> None:
    model, _ = graph(config(skip_blocks=(1,)), tmp_path, quiet)
    counts = Counter(node.op_type for node in model.graph.node)
    assert [counts[f"Structsam{name}"] for name in NAMES] == [1] * 4
    assert not {"TopK", "ScatterElements", "ReduceMax", "ArgMin"} & counts.keys()
    window = next(node for node in model.graph.node if node.op_type == "StructsamScore")
    told = {attribute.name: attribute.i for attribute in window.attribute}
    assert told == {"side": 14, "cell": 2, "merged": 36, "heads": 1}


@pytest.mark.export
def test_the_graph_lies_beside_the_encoder_which_has_no_plugins(
    config: Callable[..., ExportConfig], tmp_path: Path, quiet: Progress
) -> None:
    asked, folder = config(), tmp_path / "out"
    folder.mkdir()
    encoder = pipeline.load(asked).image_encoder
    pipeline.build_encoder(asked, encoder, folder / "encoder.onnx", quiet)
    pipeline.build_plugin_graph(asked, encoder, folder, quiet)
    domains = {
        path.name: {node.domain for node in onnx.load(path, load_external_data=False).graph.node}
        for path in folder.iterdir()
    }
    assert domains == {"encoder.onnx": {""}, PLUGIN_GRAPH: {"", DOMAIN}}


def test_only_the_papers_algorithm_has_kernels() -> None:
    assert StructSAM(0.5).has_kernels
    assert StructSAM(0.5, heads=12).has_kernels
    assert not StructSAM(0.5, gradient=Gradient.CENTRAL).has_kernels
    assert not StructSAM(0.5, prompt_windows=2).has_kernels
    assert not ToMe(0.5).has_kernels
    assert not Identity().has_kernels


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": None}, "--plugins needs --engine tensorrt: ONNX graphs use no plugins"),
        ({"engine": Engine.TENSORRT_RTX}, "needs --engine tensorrt: tensorrt-rtx supports no plugins"),
        ({"method": "tome"}, "has no kernels for --method tome; leave one of them out"),
        ({"method": "structsam:destination=max"}, "has no kernels for --method structsam:destination=max"),
        ({"method": "structsam:reduction=replace"}, "has no kernels for --method structsam:reduction=repl"),
        ({"merge_mlp": True}, "has no kernels for --merge-mlp and --plan-every"),
        ({"plan_every": 2}, "has no kernels for --merge-mlp and --plan-every"),
        (
            {"plugins": None, "plugin_graph": True, "method": "tome"},
            "--plugin-graph has no kernels for",
        ),
    ],
)
def test_unsupported_options_with_plugins_are_refused(
    change: dict[str, Any], said: str, config: Callable[..., ExportConfig]
) -> None:
    with pytest.raises(UserError, match=said):
        config(**change)


def test_a_triton_repository_is_not_written_with_plugins(
    config: Callable[..., ExportConfig], tmp_path: Path, quiet: Progress
) -> None:
    with pytest.raises(UserError, match="--triton-repository with --plugins"):
        pipeline.export(config(), tmp_path / "out", None, False, quiet, tmp_path / "models")


def test_the_config_survives_its_json(config: Callable[..., ExportConfig]) -> None:
    made = config()
    assert ExportConfig.from_json(made.as_json()) == made
    assert f"--plugins {made.plugins}" in made.command()
    assert made.has_plugin_graph
    alone = config(engine=None, plugins=None, plugin_graph=True)
    assert ExportConfig.from_json(alone.as_json()) == alone
    assert alone.command().endswith(" --plugin-graph")
    assert not config(engine=None, plugins=None).has_plugin_graph
