"""checkpoint -> SAM -> patched encoder -> trace -> passes -> lint -> verify -> manifest -> (engines)."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from structsam_runtime.build import EngineBuilder, Shape
from structsam_runtime.contract import (
    EMBEDDING,
    HAS_MASK_INPUT,
    IMAGE,
    MASK_INPUT,
    POINT_COORDS,
    POINT_LABELS,
    PRIOR,
)
from structsam_runtime.engines import PLUGIN_GRAPH, add_engines
from structsam_runtime.errors import UserError, printable
from structsam_runtime.pictures import say
from structsam_runtime.progress import Progress
from structsam_runtime.reference import FILE
from structsam_runtime.runners import TABLE
from structsam_runtime.runners.base import Runner
from structsam_runtime.runners.onnxfile import EXPORT
from structsam_runtime.thresholds import THRESHOLDS

from .analysis.macs import EncoderMacs, encoder_macs
from .answers import reference
from .calibration import PICTURES, Calibration, bundled, calibrate, left_out, parted
from .choices import Precision
from .comparing import Arrays, digest, run_all, tapped
from .config import ExportConfig
from .description import PLACES, export_id, manifest, merging, model_of, write
from .encoder.decoder import PromptedMaskDecoder
from .encoder.exported import PlannedEncoder, output_names
from .encoder.patch import apply, shared_copy, windows_of
from .encoder.plugins import PluginEncoder
from .graph.lint import lint
from .graph.passes import run_passes
from .graph.precision import DTYPES, set_precision
from .graph.quantize import TYPES, quantize
from .graph.save import save
from .graph.trace import trace
from .meta import FILE as META_FILE
from .meta import meta_iou, write_meta
from .models.checkpoints import download, load_sam, own_weights, provenance
from .models.family import FAMILIES
from .recipe import Evidence, Recipe
from .staging import check_folder, disk, staged
from .triton import check_repository, names, write_repository
from .verify import Answered, Report, each_picture, read_pictures, samples, verify

Dynamic = Mapping[str, Mapping[int, str]]

VERIFIERS = {"cpu": "onnxruntime CPUExecutionProvider", "openvino": "openvino"}
"""Runners that verify exports, and what the report calls them."""


class LintError(Exception):
    """A graph that TensorRT would refuse."""


class VerificationError(Exception):
    """An export that differs from PyTorch by more than its precision explains."""


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        config: what was asked for.
        folder: where it is.
        removed: share of tokens that attention does not see, by the keys of PLACES.
        macs: of the encoder.
        report: of the verification.
        calibration: of 8 bits; None in other precisions.
    """

    config: ExportConfig
    folder: Path
    removed: Mapping[str, float]
    macs: EncoderMacs
    report: Report
    calibration: Calibration | None = None


def export(
    config: ExportConfig,
    output: Path,
    verify_images: Path | None,
    force: bool,
    progress: Progress,
    repository: Path | None = None,
) -> Export:
    """Make an export, or leave nothing.

    Args:
        config: what it is to be.
        output: the folder, which appears when everything is made and verified.
        verify_images: a folder of images to verify on; None for photographs that ship with a dependency.
        force: replace an export that is there.
        progress: is told of every step.
        repository: of a Triton server that is to have the finished export as models.

    Raises:
        UserError: a mistake in what was asked for.
        LintError: TensorRT would refuse a graph.
        VerificationError: the export is not what PyTorch computes.
    """
    check_folder(output, force)
    if repository:
        check_served(config)
        check_repository(repository, output, config.engine, force)
    builder = builder_of(config)
    require_verifier(config.precision)
    if config.precision.quantized and config.calibrate is None:
        config = replace(config, calibrate=verify_images)  # half of them; the manifest names the folder
    calibrating, pictures = read_all(config, verify_images)
    fetch(config)  # before the steps, whose spinner would fight with the progress bar
    with disk(output), staged(output.resolve()) as folder:  # a link to a folder stays a link
        check_folder(output, force)  # again: from here on, `staged` notices what changes
        with progress.step(f"load {config.arch}") as notes:
            sam = load(config)
            weights = weights_source(config)
            notes.append(weights["source"] or "")
        encoder = sam.image_encoder
        calibration = calibrated(config, sam, calibrating, progress) if calibrating else None
        made = encoder if calibration is None else quantized(config, encoder, calibration)
        build_encoder(config, made, folder / "encoder.onnx", progress)
        decoder = build_decoder(config, sam, folder / "decoder.onnx", progress)
        report, answered = verified(config, sam, decoder, folder, pictures, progress)
        write_reference(config, encoder, answered, weights, folder, progress)
        meta = build_meta(config, sam, folder, pictures, progress) if config.decoder_layout else {}
        if config.has_plugin_graph:
            build_plugin_graph(config, made, folder, progress)
        macs = encoder_macs(encoder)
        said = {"quantization": calibration.as_json()} if calibration else {}
        content = manifest(config, sam, folder, weights, macs, asdict(report)) | meta | said
        write(folder / "manifest.json", content)
        if builder:
            add_engines(folder, builder, progress)
    if repository:
        with progress.step("write models for Triton") as notes:
            write_repository(repository, output, force)
            notes.append(", ".join(names(output)))
    removed = {kind: counts["effective_rate"] for kind, counts in merging(encoder).items()}
    return Export(config, output, removed, macs, report, calibration)


def check_served(config: ExportConfig) -> None:
    """Refuse an export that Triton does not serve.

    Raises:
        UserError: it has plugins, or ONNX files in a precision that ONNX Runtime does not compute.
    """
    if config.plugins:
        raise UserError("--triton-repository with --plugins: a server loads plugins its own way; drop one")
    if config.precision in TABLE["cpu"].lacks and not config.engine:
        raise UserError(
            f"--triton-repository with --precision {config.precision}: Triton serves ONNX files with ONNX "
            "Runtime, which does not compute it on a CPU; choose another precision"
        )


def builder_of(config: ExportConfig) -> EngineBuilder | None:
    """What builds the engines of an export; None if it is to have none.

    Raises:
        UserError: see `EngineBuilder` and its `require`.
    """
    if config.engine is None:
        return None
    builder = EngineBuilder(config.engine, config.plugins, precision=config.precision)
    builder.require(config.dialect.tensorrt)
    return builder


def read_all(config: ExportConfig, verify_images: Path | None) -> tuple[Arrays, Arrays]:
    """Pictures to calibrate on, none unless 8 bits are asked for, and others to verify on.

    Raises:
        UserError: see `each_picture` and `parted`.
    """
    pictures = read_pictures(verify_images)
    if not config.precision.quantized:
        return {}, pictures
    if config.calibrate is None:
        calibrating, verifying = parted(bundled().items(), pictures)
    elif config.calibrate == verify_images:
        calibrating, verifying = parted(pictures.items(), pictures)
    else:
        with closing(each_picture(config.calibrate, "to calibrate on", PICTURES)) as each:
            calibrating, verifying = parted(each, pictures)
    if len(calibrating) == 1:
        say("note", f"8 bits are calibrated on one picture, {next(iter(calibrating))}; more are better")
    return calibrating, verifying


def calibrated(config: ExportConfig, sam: Any, pictures: Arrays, progress: Progress) -> Calibration:
    """Find how the encoder's linear layers go into 8 bits.

    Args:
        config: which of them do not.
        sam: with its patched encoder, in fp32.
        pictures: uint8 RGB [H, W, 3] by name.
        progress: is told of the step.

    Raises:
        UserError: no layer is left in 8 bits.
    """
    with progress.phases("calibrate 8 bits") as (notes, phases):
        feeds = [sample.feed for sample in samples(pictures, model_of(config, sam))]
        layers = calibrate(sam.image_encoder, feeds, phases, TYPES[config.precision])
        notes.append(f"on {', '.join(pictures)}, which verification leaves out")
    hashes = {name: digest(picture) for name, picture in pictures.items()}
    found = Calibration(hashes, layers, left_out(layers, config.int8_skip))
    if not found.chosen:
        raise config.nothing_in_8_bits()
    return found


def quantized(config: ExportConfig, encoder: nn.Module, calibration: Calibration) -> nn.Module:
    """A copy of a patched encoder with linear layers in 8 bits, which is what is traced."""
    return quantize(encoder, calibration.chosen, DTYPES[config.precision.around])


def verified(
    config: ExportConfig,
    sam: Any,
    decoder: PromptedMaskDecoder,
    folder: Path,
    pictures: Arrays,
    progress: Progress,
) -> tuple[Report, list[Answered]]:
    """Hold the graphs in a folder against PyTorch, as `structsam predict` runs them.

    Args:
        config: what was asked for.
        sam: with its patched encoder.
        decoder: in fp32.
        folder: holds `encoder.onnx` and `decoder.onnx`.
        pictures: to verify on.
        progress: is told of the step.

    Returns:
        As `verify`.

    Raises:
        VerificationError: they are not what PyTorch computes.
    """
    model, shipped = model_of(config, sam), runner_of(config, folder / "encoder.onnx")
    with progress.step("verify against PyTorch") as notes:
        report, answered = verify(
            sam.image_encoder,
            decoder,
            model,
            shipped,
            runner_of(config, folder / "decoder.onnx"),
            tapped(shipped, output_names(sam.image_encoder)[1:]),
            samples(pictures, model),
            runner=VERIFIERS[verifier(config.precision)],
        )
        notes.append(f"mask IoU {report.mask_iou:.4f} over {report.prompts} prompts")
    if misses := report.misses(config.precision):
        raise VerificationError("; ".join(misses))
    return report, answered


def verifier(precision: Precision) -> str:
    """The runner that verifies exports of a precision, a key of VERIFIERS: the first one that computes it."""
    return next(name for name in VERIFIERS if precision not in TABLE[name].lacks)


def require_verifier(precision: Precision) -> None:
    """Check that the runner that verifies is installed.

    Raises:
        UserError: it is not.
    """
    name = verifier(precision)
    try:
        TABLE[name].library(name)
    except UserError as error:
        raise UserError(f"exports in {precision} are verified in {VERIFIERS[name]}: {error}") from error


def runner_of(config: ExportConfig, path: Path) -> Runner:
    """The runner that verifies an export, of one of its graphs: `path`, .onnx; it is opened by `with`."""
    name = verifier(config.precision)
    return TABLE[name].open(path, name)


def write_reference(
    config: ExportConfig,
    encoder: Any,
    answered: Sequence[Answered],
    weights: dict[str, str | None],
    folder: Path,
    progress: Progress,
) -> None:
    """Write what PyTorch answered, and say which pictures travel with it."""
    with progress.step(f"write {FILE}") as notes:
        runner, name = runner_of(config, folder / "decoder.onnx"), export_id(config, weights)
        made = reference(encoder, runner, config.precision, name, answered)
        made.save(folder / FILE)
        notes.append(f"with {', '.join(one.name for one in made.answers)}")


def fetch(config: ExportConfig) -> None:
    """Have the architecture's own checkpoint at hand if the export needs it; shows a progress bar."""
    if config.checkpoint is None and not config.random_weights:
        download(config.arch)


def load(config: ExportConfig) -> Any:
    """Meta's Sam in fp32 with its encoder patched as the config says."""
    sam = load_sam(config.arch, config.image_size, config.checkpoint, config.random_weights, config.seed)
    patch(config, sam.image_encoder)
    return sam


def patch(config: ExportConfig, encoder: Any) -> None:
    """Let an encoder merge as the config says."""
    merge_mlp = [block.merge_mlp for block in config.recipe.blocks]
    leaders = config.recipe.leaders(windows_of(encoder))
    apply(encoder, config.methods(), merge_mlp, leaders, config.form)


def weights_source(config: ExportConfig) -> dict[str, str | None]:
    """Where the weights came from and what type they had there, for the manifest."""
    if config.random_weights:
        return {"source": f"random, seed {config.seed}", "sha256": None, "dtype": None}
    return {**provenance(config.checkpoint or own_weights(config.arch))}


def build_encoder(config: ExportConfig, encoder: nn.Module, path: Path, progress: Progress) -> None:
    """Write the graph of a patched encoder in fp32, or with linear layers in 8 bits."""
    module = PlannedEncoder(encoder)
    build(config, module, *example_images(config), output_names(encoder), path, progress)


def example_images(config: ExportConfig) -> tuple[dict[str, Tensor], Dynamic | None]:
    """Inputs to trace an encoder with, and which of their dimensions stay open."""
    batch = 2 if config.dynamic_batch else 1
    inputs = {name: torch.zeros(batch, *shape) for name, shape in encoder_inputs(config).items()}
    return inputs, {name: {0: "batch"} for name in inputs} if config.dynamic_batch else None


def encoder_inputs(config: ExportConfig) -> dict[str, Shape]:
    """What the encoder's graph takes, and its shape for one image."""
    grid = config.architecture.grid(config.image_size)
    inputs: dict[str, Shape] = {IMAGE: (3, config.image_size, config.image_size)}
    return inputs | ({PRIOR: (grid, grid)} if config.prompt_aware else {})


def build_decoder(config: ExportConfig, sam: Any, path: Path, progress: Progress) -> PromptedMaskDecoder:
    """Write the decoder's graph; returns the fp32 module that it was made from."""
    decoder = PromptedMaskDecoder(sam).eval()
    outputs = FAMILIES[config.family].decoder_outputs
    precision = config.precision.decoder
    build(config, decoder, *example_prompts(config), outputs, path, progress, precision)
    return decoder


def build_meta(
    config: ExportConfig, sam: Any, folder: Path, pictures: Arrays, progress: Progress
) -> dict[str, Any]:
    """Write the decoder that other tools take, and verify it on the first picture.

    Returns:
        What the manifest says of it, under its key there.

    Raises:
        VerificationError: its masks are not those of Meta's own.
    """
    layout, model, tools = config.decoder_layout, model_of(config, sam), verifier(config.precision.decoder)
    if layout is None:
        return {}
    with progress.step(f"write {META_FILE}") as notes:
        said = write_meta(folder, model, layout)
        sample = samples(dict(list(pictures.items())[:1]), model)[0]
        (made,) = run_all(runner_of(config, folder / "encoder.onnx"), [sample.feed])
        runner = TABLE[tools].open(folder / META_FILE, tools)
        said["mask_iou"] = meta_iou(runner, sam, layout, made[EMBEDDING], sample.frame)
        notes.append(f"mask IoU with Meta's {said['mask_iou']:.4f}")
    least = THRESHOLDS[config.precision].decoder_iou  # both decoders get the same embedding
    if least is not None and not said["mask_iou"] >= least:
        raise VerificationError(
            f"mask IoU of {META_FILE} is {said['mask_iou']:.5g}, expected at least {least:g}"
        )
    return {"decoder_meta": said}


def example_prompts(config: ExportConfig) -> tuple[dict[str, Tensor], Dynamic]:
    """Inputs to trace a decoder with, and which of their dimensions stay open."""
    architecture = config.architecture
    grid, side = architecture.grid(config.image_size), architecture.mask_side(config.image_size)
    prompts, points = 2, 3  # any two: both dimensions are dynamic
    inputs = {
        EMBEDDING: torch.zeros(1, architecture.width, grid, grid),
        POINT_COORDS: torch.zeros(prompts, points, 2),
        POINT_LABELS: torch.ones(prompts, points, dtype=torch.int32),
        MASK_INPUT: torch.zeros(prompts, 1, side, side),
        HAS_MASK_INPUT: torch.zeros(prompts),
    }
    dynamic = {name: {0: "prompts"} for name in inputs if name != EMBEDDING}
    for name in (POINT_COORDS, POINT_LABELS):
        dynamic[name] = {0: "prompts", 1: "points"}
    return inputs, dynamic


def build(
    config: ExportConfig,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    dynamic: Dynamic | None,
    outputs: Sequence[str],
    path: Path,
    progress: Progress,
    precision: Precision | None = None,
) -> None:
    """Trace a module, clean its graph, check it and write it.

    Outputs that tell plans stay in the graph under their names, but are no outputs of the file. The precision
    is the config's, or another of this graph alone.

    Raises:
        LintError: TensorRT would refuse the graph.
    """
    what = path.stem
    with progress.step(f"trace {what} in {precision or config.precision}"):
        model = traced(config, module, inputs, dynamic, outputs, precision)
    with progress.step(f"clean {what}") as notes:
        before = len(model.graph.node)
        model, _ = run_passes(model)
        notes.append(f"{before} to {len(model.graph.node)} nodes")
    told = [value for value in model.graph.output if value.name.startswith("blocks.")]
    for value in told:
        model.graph.output.remove(value)
    errors = [
        finding
        for finding in lint(model, config.dialect.tensorrt)
        if finding.severity == "error" and not (path.name == PLUGIN_GRAPH and finding.rule == "domain")
    ]
    if errors:
        told_of = "; ".join(f"{finding.node or 'graph'}: {finding.message}" for finding in errors)
        raise LintError(f"TensorRT would refuse the {what}: {told_of}")
    onnx.helper.set_model_props(model, {EXPORT: export_id(config, weights_source(config))})
    save(model, path)


def traced(
    config: ExportConfig,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    dynamic: Dynamic | None,
    outputs: Sequence[str],
    precision: Precision | None = None,
) -> onnx.ModelProto:
    """A module's graph in the config's dialect, as the tracer leaves it; the module stays.

    The precision is the config's, or another of this graph alone.
    """
    precision = (precision or config.precision).around
    ready = set_precision(_copy(module, precision), precision)
    return trace(ready, inputs, outputs, dynamic, config.dialect.opset)


def _copy(module: nn.Module, precision: Precision) -> nn.Module:
    """A copy to prepare and trace. In fp32 the weights themselves stay shared: only modules are replaced."""
    return shared_copy(module) if precision is Precision.FP32 else copy.deepcopy(module)


def build_plugin_graph(config: ExportConfig, encoder: nn.Module, folder: Path, progress: Progress) -> Path:
    """Write the patched encoder's graph with plugins, from which `--plugins` builds its engine.

    It lies beside `encoder.onnx`, which needs no plugins and runs anywhere.
    """
    path, module = folder / PLUGIN_GRAPH, PluginEncoder(encoder)
    outputs = FAMILIES[config.family].encoder_outputs
    build(config, module, *example_images(config), outputs, path, progress)
    return path


def summary(made: Export) -> str:
    """What was made, its size, what it costs, and what to type next."""
    files = [f"{path.name} {path.stat().st_size / 1e6:.0f} MB" for path in sorted(made.folder.iterdir())]
    macs, report = made.macs, made.report
    gmac, unmerged = macs.total / 1e9, macs.unmerged / 1e9
    plans = "" if report.plans is None else f", plans agree in {100 * report.plans:.2f} % of the tokens"
    weights = ["weights are random: its masks mean nothing"] if made.config.random_weights else []
    folder, runner = shlex.quote(str(made.folder)), verifier(made.config.precision)
    removed = ", ".join(f"{share:.1%} in {PLACES[kind]}" for kind, share in made.removed.items())
    if isinstance(made.config.merging, Recipe):
        removed = "see the recipe" if removed else ""  # blocks of one kind may differ
    return "\n".join(
        [
            f"{printable(str(made.folder))}: {', '.join(files)}",
            f"encoder {gmac:.1f} GMAC of {unmerged:.1f} ({1 - gmac / unmerged:.1%} less)",
            *([f"tokens removed: {removed}"] if removed else []),
            *capped(made),
            *([made.calibration.table()] if made.calibration else []),
            f"mask IoU with PyTorch {report.mask_iou:.4f}{plans}",
            *tuned(made.config),
            *fragile(made),
            *weights,
            f"next: structsam predict {folder} photo.jpg --box 100 80 400 360 -o overlay.png"
            + ("" if runner == "cpu" else f" --runner {runner}"),
        ]
    )


def capped(made: Export) -> list[str]:
    """A line for every method that cannot remove as much as was asked for."""
    limits = {
        block.method: method.most
        for block, method in zip(made.config.recipe.blocks, made.config.methods(), strict=True)
        if block.rate > method.most
    }
    return [
        f"{spec} removes at most {limit:.0%} of the tokens: rates above {limit:g} are {limit:g}"
        for spec, limit in limits.items()
    ]


def tuned(config: ExportConfig) -> list[str]:
    """A line for a recipe that `tune` made: how well its masks agreed."""
    evidence = config.recipe.tuned
    if evidence is None:
        return []
    return [evidence.told(Evidence.named(weights_source(config)), config.image_size)]


def fragile(made: Export) -> list[str]:
    """A line for methods of which two runtimes are two valid runs, and not one and the same."""
    if not made.report.fragile:
        return []
    told = ", ".join(dict.fromkeys(str(one.method) for one in made.config.recipe.blocks if one.merges))
    return [f"{told} merges by ranks that a last bit can swap: masks of two runtimes differ"]
