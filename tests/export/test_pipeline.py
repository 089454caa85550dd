"""The whole path on a SAM small enough to export in seconds: a block of each kind, 320 pixels."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skimage.data
from onnx import numpy_helper

from structsam_export import pipeline
from structsam_export.check import compare
from structsam_export.choices import DecoderLayout, Engine, Precision, Target
from structsam_export.comparing import Arrays
from structsam_export.config import ExportConfig
from structsam_export.graph.lint import Finding
from structsam_export.recipe import Recipe
from structsam_export.subjects import from_export
from structsam_export.verify import read_pictures, samples
from structsam_runtime import Manifest, OnnxRuntimeRunner, Predictor, UserError
from structsam_runtime.build import EngineBuilder
from structsam_runtime.manifest import EngineRecord
from structsam_runtime.predict.predictor import BATCH
from structsam_runtime.progress import Progress
from structsam_runtime.reference import Reference
from structsam_runtime.runners import create, cuda
from structsam_runtime.runners.base import HostArray
from structsam_runtime.runners.tapped import TappedRunner

SIZE = 320

# Engines of TensorRT-RTX, and what else is tested of the same exports.
ENGINES: dict[Precision, dict[str, Any]] = {
    Precision.FP32: {"arch": "tiny", "merge_mlp": True, "plan_every": 2},
    Precision.FP16: {"decoder_layout": DecoderLayout.META_SINGLE},
    Precision.BF16: {"target": Target.CPU, "decoder_layout": DecoderLayout.META},
    Precision.INT8_FP16: {},
    Precision.FP8: {},
}
PROMPTED = {
    "rate_window": 0.35,
    "rate_background": 0.75,
    "rate_global": 0.7,
    "prompt_windows": 2,
    "engine": Engine.TENSORRT_RTX,
    "decoder_layout": DecoderLayout.META,
}

Exported = Callable[..., Path]
Command = Callable[[str, str], tuple[int | str | None, str, str]]


def with_engine(precision: Precision) -> dict[str, Any]:
    """Options of an export with engines of TensorRT-RTX."""
    return {"precision": precision, "engine": Engine.TENSORRT_RTX, **ENGINES.get(precision, {})}


def content(folder: Path) -> dict:
    """The manifest as it is written."""
    return json.loads((folder / "manifest.json").read_text())


def test_an_export_says_what_it_is_and_keeps_its_word(exported: Exported) -> None:
    folder = exported()
    said = content(folder)
    files = ["encoder.onnx", "decoder.onnx", "reference.npz"]
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}
    Manifest.read(folder).check_files(folder, files)
    assert said["name"] == "two-structsam-r55-320px-fp32"
    graphs = [onnx.load(folder / f"{part}.onnx") for part in ("encoder", "decoder")]
    assert [{prop.key: prop.value for prop in graph.metadata_props} for graph in graphs] == [
        {"structsam.export": said["id"]}
    ] * 2
    assert said["graph"] == {"target": "cpu", "opset": 20, "attention": "widened", "tensorrt": "10.3"}
    assert said["merging"]["window"] == {
        "tokens": 196, "tokens_kept": 88, "effective_rate": 0.551, "cells": 49, "cells_merged": 36,
    }  # fmt: skip
    assert said["merging"]["global"]["cells_merged"] == 74  # ceil(0.55 * 400 / 3)
    assert said["encoder"]["outputs"] == [
        {"name": "image_embedding", "dtype": "float32", "shape": [1, 256, 20, 20]}
    ]
    with OnnxRuntimeRunner(folder / "encoder.onnx") as encoder:
        for side, specs in (("inputs", encoder.inputs), ("outputs", encoder.outputs)):
            assert {t["name"]: (t["dtype"], tuple(t["shape"])) for t in said["encoder"][side]} == {
                name: (str(spec.dtype), spec.shape) for name, spec in specs.items()
            }
    assert said["macs"]["merged"] < said["macs"]["unmerged"]
    assert said["verification"]["plans"] >= 0.999
    assert said["verification"]["error"] <= 1e-3
    assert ExportConfig.from_json(said["arguments"]).name == said["name"]
    with pytest.raises(UserError, match="has no engines; build them: ") as error:
        create(folder, "encoder", "tensorrt")
    assert str(error.value).endswith(f": structsam build {folder} --engine tensorrt")


@pytest.mark.engine
@pytest.mark.parametrize("precision", ENGINES)
def test_tensorrt_rtx_builds_encoder_and_decoder_without_a_gpu(
    exported: Exported, precision: Precision
) -> None:
    folder = exported(**with_engine(precision))
    for name in ("encoder", "decoder"):
        weights = (folder / f"{name}.onnx").stat().st_size
        assert (folder / f"{name}.engine").stat().st_size > 0.5 * weights
    builder = EngineBuilder(Engine.TENSORRT_RTX, precision=precision)
    record = Manifest.read(folder).engine
    assert record == EngineRecord(
        "tensorrt-rtx", builder.version, None, builder.hardware.capabilities, tf32=False
    )
    assert {"8.9", "12.0"} <= set(builder.hardware.capabilities)
    assert ("8.6" in builder.hardware.capabilities) == ("fp8" not in precision)
    said = content(folder)["engine"]
    assert said["profiles"]["decoder"]["has_mask_input"] == [[1], [1], [64]]
    assert (said["precision"], said["tf32"]) == (precision, False)
    Manifest.read(folder).check_files(folder, ["encoder.engine", "decoder.engine"])


@pytest.mark.engine
def test_half_precision_passes_its_own_thresholds_with_float32_at_both_ends(exported: Exported) -> None:
    said = content(exported(**with_engine(Precision.FP16)))
    assert said["graph"] == {"target": "rtx", "opset": 23, "attention": "operator", "tensorrt": "10.14"}
    assert said["verification"]["cosine"] >= 0.998
    for part in ("encoder", "decoder"):
        types = {tensor["dtype"] for side in said[part].values() for tensor in side}
        assert types <= {"float32", "int32"}


@pytest.mark.export
def test_bf16_is_verified_and_checked_where_it_is_computed(exported: Exported, run_command: Command) -> None:
    folder = exported(**with_engine(Precision.BF16))
    said = content(folder)
    assert said["verification"]["runner"] == "openvino"
    assert said["graph"]["opset"] == 23
    assert said["graph"]["target"] == "cpu"
    assert said["decoder_meta"]["mask_iou"] >= 0.99
    types = {
        part: {one.data_type for one in onnx.load(folder / f"{part}.onnx").graph.initializer if one.dims}
        for part in ("encoder", "decoder", "decoder.meta")
    }
    assert {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT} <= types["encoder"], "norms stay in fp32"
    assert not any(onnx.TensorProto.BFLOAT16 in types[part] for part in ("decoder", "decoder.meta"))
    code, out, err = run_command("check", f"{folder} --runner openvino")
    assert code == 0, out + err
    code, _, err = run_command("check", str(folder))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: runner 'cpu' does not run exports in bf16: ")


@pytest.mark.engine
def test_a_merged_mlp_and_shared_plans_export_and_agree(exported: Exported) -> None:
    said = content(exported(**with_engine(Precision.FP32)))
    assert said["verification"]["plans"] >= 0.999
    assert said["verification"]["error"] <= 1e-3
    assert [plan["block"] for plan in said["plans"]] == [0, 1], "of two blocks of a kind the first decides"


@pytest.mark.engine
def test_an_open_batch_and_head_mean_energy_export(exported: Exported) -> None:
    folder = exported(
        dynamic_batch=True,
        method="structsam:channels=heads",
        skip_blocks=(0,),
        engine=Engine.TENSORRT_RTX,
        target=Target.TENSORRT10,
        plugin_graph=True,
    )
    said = content(folder)
    assert said["engine"]["profiles"]["encoder"] == {
        "image": [[1, 3, SIZE, SIZE], [1, 3, SIZE, SIZE], [BATCH, 3, SIZE, SIZE]]
    }
    assert "encoder.plugins.onnx" in said["files"]
    assert said["encoder"]["inputs"][0]["shape"] == ["batch", 3, SIZE, SIZE]
    assert [plan["block"] for plan in said["plans"]] == [1]
    pictures = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
    with OnnxRuntimeRunner(folder / "encoder.onnx") as encoder:
        together = encoder.infer({"image": pictures})["image_embedding"]
        alone = [encoder.infer({"image": picture[None]})["image_embedding"] for picture in pictures]
    # Sums may be ordered by the size of the batch; each image still merges by itself.
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


@pytest.mark.engine
def test_a_prompt_aware_export_takes_a_prior_and_agrees_under_several(
    exported: Exported, quiet: Progress
) -> None:
    folder = exported(**PROMPTED)
    said = content(folder)
    assert said["name"] == "two-structsam-prompt2r35-r75w70g-320px-fp32"
    assert [tensor["name"] for tensor in said["encoder"]["inputs"]] == ["image", "prior"]
    assert said["encoder"]["inputs"][1]["shape"] == [1, 20, 20]
    assert Manifest.read(folder).model.prior
    assert {kind: counts["cells_merged"] for kind, counts in said["merging"].items()} == {
        "prompt": 23, "window": 49, "global": 94,
    }  # fmt: skip
    told = [(plan["block"], plan["slot"], plan["windows"], plan["slots"]) for plan in said["plans"]]
    assert told == [
        (0, "blocks.0.prompt.slot", 2, 127),
        (0, "blocks.0.background.slot", 2, 49),
        (1, "blocks.1.slot", 1, 400 - 3 * 94),
    ]
    assert len(said["verification"]["images"]) == 3 * 3  # photographs and priors
    report, misses = compare(folder, None, "cpu", None, quiet)
    assert misses == []
    assert report.plans_by_block.keys() == {0, 1}
    evaluated = from_export(folder, "cpu")
    assert evaluated.facts["label"] == (
        "StructSAM, prompt-aware with 0.35 in 2 windows, 0.75 in window and 0.7 in global blocks"
    )
    masks = []
    for opened in (evaluated.open(), Predictor.load(folder)):
        with opened as predictor:
            predictor.set_image(skimage.data.astronaut())
            masks.append(predictor.predict(box=[150, 20, 300, 220], return_logits=True)[0])
    np.testing.assert_allclose(masks[0], masks[1], atol=1e-4)


@pytest.mark.export
def test_the_ablation_without_cells_exports_and_agrees_on_what_merges(exported: Exported) -> None:
    said = content(exported(method="structsam:cells=no"))
    assert said["verification"]["plans"] >= 0.999
    with pytest.raises(UserError, match="fp16 changes that order"):
        exported(method="structsam:cells=no", precision=Precision.FP16)


@pytest.mark.export
def test_a_recipe_is_exported_kept_and_checked(exported: Exported, tmp_path: Path, quiet: Progress) -> None:
    """Every block does something else; the MLP of the second sees slots."""
    blocks = [
        {"method": "structsam:flatness=mean", "rate": 0.5},
        {"method": "adjacent", "rate": 0.3, "merge_mlp": True},
        {"rate": 0},
        {"method": "tome:reduction=replace", "rate": 0.4},
    ]
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"blocks": blocks}))
    config = ExportConfig(
        "tiny", random_weights=True, image_size=SIZE, merging=Recipe.read(recipe), target=Target.RTX
    )
    folder = pipeline.export(config, tmp_path / config.name, None, False, quiet).folder
    said = content(folder)
    assert folder.name == "tiny-recipe-rtx-320px-fp32"
    assert said["command"].endswith(f"--recipe {recipe} --image-size 320 --target rtx")
    assert [plan["block"] for plan in said["plans"]] == [0, 1, 3]
    assert said["verification"]["plans"] >= 0.999
    assert Recipe.read(folder / "manifest.json") == config.recipe
    recipe.unlink()  # which is not needed again
    report, misses = compare(folder, None, "cpu", None, quiet)
    assert (misses, report.plans_by_block.keys()) == ([], {0, 1, 3})


@pytest.mark.export
def test_rate_zero_exports_an_encoder_that_tells_no_plans(exported: Exported) -> None:
    said = content(exported(rate=0.0))
    assert said["plans"] == []
    assert said["merging"] == {}
    assert said["verification"]["plans"] is None
    assert said["verification"]["mask_iou"] >= 0.99
    assert said["macs"]["merged"] == said["macs"]["unmerged"]


@pytest.mark.export
def test_comparing_again_finds_an_export_that_was_changed(
    exported: Exported, tmp_path: Path, quiet: Progress
) -> None:
    good = exported()
    report, misses = compare(good, None, "cpu", None, quiet)
    assert misses == []
    assert "mask IoU" in report.table()

    model = onnx.load(good / "encoder.onnx")
    norm = next(weight for weight in model.graph.initializer if weight.name.endswith("norm2.weight"))
    norm.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(norm) * 1.05, norm.name))
    bad = tmp_path / "bad"
    bad.mkdir()
    onnx.save(model, bad / "encoder.onnx")
    (bad / "decoder.onnx").write_bytes((good / "decoder.onnx").read_bytes())
    said = content(good)
    (bad / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="sha256"):  # the same size, other numbers
        compare(bad, None, "cpu", None, quiet)

    record = Manifest.read(bad).files["encoder.onnx"]
    digest = hashlib.sha256((bad / "encoder.onnx").read_bytes()).hexdigest()
    said["files"]["encoder.onnx"] = dataclasses.asdict(record) | {"sha256": digest}
    (bad / "manifest.json").write_text(json.dumps(said))
    _, misses = compare(bad, None, "cpu", None, quiet)
    assert any("embedding error" in miss for miss in misses)


Change = Callable[[Arrays], Arrays]


def scaled(made: Arrays) -> Arrays:
    """The embedding, and nothing else, a hundredth too large."""
    return {name: values * 1.01 if name == "image_embedding" else values for name, values in made.items()}


def noisy(made: Arrays) -> Arrays:
    """The masks, and nothing else, under noise."""
    noise = np.random.default_rng(0)
    return {
        name: values + values.std() * noise.normal(size=values.shape).astype(np.float32)
        if name == "masks"
        else values
        for name, values in made.items()
    }


def breaks(monkeypatch: pytest.MonkeyPatch, change: Change, plans_too: bool = True) -> None:
    """Change what the runner that ships gives; the one that tells plans is of the same class."""
    run = OnnxRuntimeRunner._run
    if not plans_too:
        monkeypatch.setattr(TappedRunner, "_run", run, raising=False)

    def changed(self: OnnxRuntimeRunner, feeds: Any) -> Arrays:
        return change(run(self, feeds))

    def on_device(self: OnnxRuntimeRunner, feeds: Any) -> dict[str, HostArray]:
        given = {name: feed if isinstance(feed, np.ndarray) else feed.numpy() for name, feed in feeds.items()}
        return {name: HostArray(values) for name, values in changed(self, given).items()}

    monkeypatch.setattr(OnnxRuntimeRunner, "_run", changed)
    monkeypatch.setattr(OnnxRuntimeRunner, "_run_on_device", on_device)


@pytest.fixture
def traced(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> ExportConfig:
    """The config of the shared export, whose graphs an export in this process takes as they are."""
    folder = exported()

    def copy(
        config: ExportConfig,
        module: object,
        inputs: object,
        dynamic: object,
        outputs: object,
        path: Path,
        progress: Progress,
        precision: Precision | None = None,
    ) -> None:
        shutil.copy(folder / path.name, path)

    monkeypatch.setattr(pipeline, "build", copy)
    return ExportConfig("two", random_weights=True, image_size=SIZE)


@pytest.mark.export
@pytest.mark.parametrize(
    ("change", "plans_too", "miss", "here"),
    [
        (scaled, True, "largest embedding error is", "least embedding error is"),
        (scaled, False, "largest embedding error is", "least embedding error is"),
        (noisy, True, "mask IoU is", "mask IoU is"),
    ],
)
def test_the_gate_fails_where_the_runner_that_ships_computes_something_else(
    exported: Exported,
    traced: ExportConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Command,
    change: Change,
    plans_too: bool,
    miss: str,
    here: str,
    quiet: Progress,
) -> None:
    folder = exported()
    breaks(monkeypatch, change, plans_too)
    for line, told in ((f"{folder} --against pytorch", miss), (str(folder), here)):
        code, out, err = run_command("check", line)
        assert (code, "passed" in out) == (3, False)
        assert f"failed: {told}" in err
    with pytest.raises(pipeline.VerificationError, match=miss):
        pipeline.export(traced, tmp_path / "out", None, False, quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
def test_every_command_runs_the_same_class(
    exported: Exported,
    traced: ExportConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Command,
    quiet: Progress,
) -> None:
    """Verification, both checks, evaluation and prediction; with PyTorch a second runner looks inside."""
    folder, opened = exported(), []
    start = OnnxRuntimeRunner._open
    monkeypatch.setattr(OnnxRuntimeRunner, "_open", lambda self: opened.append(self) or start(self))

    def kinds() -> list[tuple[type, str]]:
        found = [(type(one), one.path.name) for one in opened]
        opened.clear()
        return found

    ours = [(OnnxRuntimeRunner, "encoder.onnx"), (OnnxRuntimeRunner, "decoder.onnx")]
    checked = [ours[0], (TappedRunner, "encoder.onnx"), ours[1]]
    compare(folder, None, "cpu", None, quiet)
    assert kinds() == checked
    pipeline.export(traced, tmp_path / "verified", None, False, quiet)
    assert kinds() == [*checked, ours[1]], "the decoder alone once more, for the reference"
    assert run_command("check", str(folder))[0] == 0
    assert kinds() == ours
    with from_export(folder, "cpu").open():
        assert kinds() == ours
    with Predictor.load(folder):
        assert kinds() == ours


@pytest.mark.export
@pytest.mark.parametrize(
    "options",
    [{"rate": 0.0}, with_engine(Precision.FP16), PROMPTED],
    ids=["unmerged", "fp16", "prompt-aware"],
)
def test_exports_pass_their_own_check(exported: Exported, run_command: Command, options: dict) -> None:
    """And the encoder's inputs are those of verification to the bit, though pictures are kept as bytes."""
    folder = exported(**options)
    code, out, err = run_command("check", str(folder))
    assert (code, err) == (0, ""), out
    known = Manifest.read(folder)
    told = Reference.load(folder, known)
    verified = {one.name: one.feed for one in samples(read_pictures(None), known.model)}
    for answer in told.answers:
        feed = answer.feed(known.model)
        assert feed.keys() == verified[answer.name].keys()
        for name, values in verified[answer.name].items():
            np.testing.assert_array_equal(feed[name], values)


@pytest.mark.export
def test_an_encoder_that_is_not_what_was_verified_fails_its_check(
    exported: Exported, tmp_path: Path, run_command: Command, sign_again: Callable[[Path], None]
) -> None:
    """One scale of one normalisation, 2 % too large."""
    folder = Path(shutil.copytree(exported(), tmp_path / "out"))
    model = onnx.load(folder / "encoder.onnx")
    norm = next(weight for weight in model.graph.initializer if weight.name.endswith("norm2.weight"))
    norm.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(norm) * np.float32(1.02), norm.name))
    onnx.save(model, folder / "encoder.onnx")
    sign_again(folder)
    code, _, err = run_command("check", str(folder))
    assert code == 3
    assert "failed: least embedding error is" in err


@pytest.mark.export
@pytest.mark.parametrize(
    ("options", "missed"),
    [
        (
            {
                "arch": "vit_nano",
                "random_weights": False,
                "image_size": 256,
                "method": "adjacent",
                "rate": 0.75,
            },
            {"mask IoU", "predicted IoU error"},
        ),
        ({}, {"least embedding error", "predicted IoU error"}),
    ],
    ids=["adjacent", "structsam"],
)
def test_tf32_fails_the_check_of_an_fp32_export(
    exported: Exported,
    tmp_path: Path,
    run_command: Command,
    in_tf32: Callable[[Path], None],
    sign_again: Callable[[Path], None],
    options: dict,
    missed: set[str],
) -> None:
    """`adjacent`, here with trained weights, plans by products, so that masks differ.

    Rounding changes a plan of every picture even in fp32, and so its least error is not held. `structsam`
    plans without products: masks are as good as in fp32, and only the two errors tell.
    """
    folder = Path(shutil.copytree(exported(**options), tmp_path / "out"))
    assert run_command("check", str(folder))[0] == 0
    for part in ("encoder", "decoder"):
        in_tf32(folder / f"{part}.onnx")
    sign_again(folder)
    code, _, err = run_command("check", str(folder))
    assert code == 3
    assert {line.split(" is ")[0].removeprefix("failed: ") for line in err.splitlines()} >= missed


@pytest.mark.export
def test_comparing_wants_the_weights_that_were_exported(
    exported: Exported, tmp_path: Path, quiet: Progress
) -> None:
    folder = exported()
    said = content(folder)
    said["weights"]["sha256"] = "0" * 64
    for name in ("encoder.onnx", "decoder.onnx"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="another hash"):
        compare(tmp_path, None, "cpu", None, quiet)


@pytest.mark.export
def test_comparing_reads_no_weights_for_random_ones(
    exported: Exported, tmp_path: Path, quiet: Progress
) -> None:
    with pytest.raises(UserError, match="was made from random weights; leave --checkpoint out"):
        compare(exported(), None, "cpu", tmp_path / "mine.pth", quiet)


@pytest.mark.export
def test_a_graph_that_tensorrt_refuses_is_not_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Progress
) -> None:
    config = ExportConfig.from_json(content(exported())["arguments"])
    errors = [
        Finding("rank", "mul", "Mul", "nine axes", "error"),
        Finding("other", "add", "Add", "", "warning"),
    ]
    monkeypatch.setattr(pipeline, "lint", lambda *_: errors)
    with pytest.raises(pipeline.LintError, match=r"^TensorRT would refuse the decoder: mul: nine axes$"):
        pipeline.build_decoder(config, pipeline.load(config), tmp_path / "decoder.onnx", quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
def test_a_decoder_for_other_tools_that_is_not_metas_is_no_export(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Progress
) -> None:
    folder = Path(shutil.copytree(exported(), tmp_path / "out"))
    arguments = content(folder)["arguments"] | {"decoder_layout": DecoderLayout.META}
    config = ExportConfig.from_json(arguments)
    monkeypatch.setattr(pipeline, "meta_iou", lambda *_: 0.5)
    with pytest.raises(
        pipeline.VerificationError, match=r"mask IoU of decoder.meta.onnx is 0.5, expected at"
    ):
        pipeline.build_meta(config, pipeline.load(config), folder, read_pictures(None), quiet)


@pytest.mark.export
@pytest.mark.parametrize("runner", ["cuda", "trt-ep", "tensorrt", "gpu"])
def test_a_runner_that_is_not_here_is_one_line(exported: Exported, runner: str, quiet: Progress) -> None:
    folder = exported()
    with pytest.raises(UserError) as error:
        compare(folder, None, runner, None, quiet)
    assert "\n" not in str(error.value)


@pytest.mark.engine
@pytest.mark.gpu
@pytest.mark.parametrize("precision", Precision)
def test_engines_compute_what_pytorch_computes(
    exported: Exported, precision: Precision, quiet: Progress
) -> None:
    try:
        capability = cuda.gpu().capability
    except UserError as error:
        pytest.skip(f"engines were built, but cannot be run here: {error}")
    if capability not in EngineBuilder(Engine.TENSORRT_RTX, precision=precision).hardware.capabilities:
        pytest.skip(f"TensorRT-RTX does not support compute capability {capability}")
    folder = exported(**with_engine(precision))
    _, misses = compare(folder, None, "tensorrt-rtx", None, quiet)
    assert misses == []
