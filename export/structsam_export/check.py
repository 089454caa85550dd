"""The comparison of `verify`, for an export that is already there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from polygraphy.backend.base import BaseRunner

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Manifest
from structsam_runtime.runners import check_engine, file_of
from structsam_runtime.runners.onnxruntime import PROVIDERS
from structsam_runtime.runners.tensorrt import PLUGINS

from .choices import Engine
from .comparing import onnx_runner
from .config import ExportConfig
from .encoder.decoder import PromptedMaskDecoder
from .encoder.exported import output_names
from .engine import EngineBuilder
from .pipeline import fetch, load, weights_source
from .progress import Progress
from .verify import Report, read_pictures, samples, verify


def compare(
    folder: Path, images: Path | None, runner: str, checkpoint: Path | None, progress: Progress
) -> tuple[Report, list[str]]:
    """Compare an export with the PyTorch model that it was made from.

    Args:
        folder: the export.
        images: a folder of images; None for the photographs that ship with a dependency.
        runner: one of structsam_runtime.runners.RUNNERS.
        checkpoint: the weights, if they are not where the manifest says; their hash must be the same.
        progress: is told of every step.

    Returns:
        What was measured, and the thresholds that were missed.

    Raises:
        UserError: no export, other weights than it was made from, or a runner that is not here.
    """
    file_of("encoder", runner)  # before anything slow
    known = Manifest.read(folder)
    pictures = read_pictures(images)
    content = json.loads((folder / "manifest.json").read_text())
    config = ExportConfig.from_json(content["arguments"])
    if checkpoint is not None:
        if config.random_weights:
            raise UserError(f"{folder} was made from random weights; leave --checkpoint out")
        config = dataclasses.replace(config, checkpoint=checkpoint)
    fetch(config)
    with progress.step("load PyTorch model"):
        sam = load(config)
        if weights_source(config)["sha256"] != content["weights"]["sha256"]:
            raise UserError(
                f"{folder} was made from {content['weights']['source']} with another hash; "
                "give that file with --checkpoint"
            )
    encoder, decoder = runners(folder, runner, known, output_names(sam.image_encoder)[1:])
    with progress.step(f"compare on {runner}"):
        report = verify(
            sam.image_encoder,
            PromptedMaskDecoder(sam).eval(),
            encoder,
            decoder,
            samples(pictures, known.model),
            runner,
        )
    return report, report.misses(known.model.precision)


def runners(folder: Path, runner: str, manifest: Manifest, plans: list[str]) -> tuple[BaseRunner, BaseRunner]:
    """Runners of the encoder and the decoder. Engines do not tell their plans.

    Raises:
        UserError: a file that is not what the manifest says, or a runner that is not here.
    """
    encoder, decoder = (folder / file_of(part, runner) for part in ("encoder", "decoder"))
    if runner not in PROVIDERS:
        check_engine(folder, manifest, runner)
    plugins = [PLUGINS] if runner not in PROVIDERS and PLUGINS in manifest.files else []
    manifest.check_files(folder, [encoder.name, decoder.name, *plugins])
    if runner not in PROVIDERS:
        builder = EngineBuilder(Engine(runner), folder / PLUGINS if plugins else None)
        return builder.runner(encoder), builder.runner(decoder)
    provider = PROVIDERS[runner]
    return onnx_runner(encoder, plans, provider), onnx_runner(decoder, provider=provider)
