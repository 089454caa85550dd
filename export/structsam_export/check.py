"""The comparison of `verify`, for an export that is already there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Manifest, content, entry
from structsam_runtime.runners import create, kind_of

from .comparing import tapped
from .config import ExportConfig
from .encoder.decoder import PromptedMaskDecoder
from .encoder.exported import output_names
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
    kind_of(runner)  # before anything slow
    known = Manifest.read(folder)
    pictures = read_pictures(images)
    said = content(folder)
    weights = entry(said, "weights", dict)
    config = ExportConfig.from_json(entry(said, "arguments", dict))
    if checkpoint is not None:
        if config.random_weights:
            raise UserError(f"{folder} was made from random weights; leave --checkpoint out")
        config = dataclasses.replace(config, checkpoint=checkpoint)
    fetch(config)
    with progress.step("load PyTorch model"):
        sam = load(config)
        if weights_source(config)["sha256"] != weights.get("sha256"):
            raise UserError(
                f"{folder} was made from {weights.get('source')} with another hash; "
                "give that file with --checkpoint"
            )
    encoder, decoder = (create(folder, part, runner) for part in ("encoder", "decoder"))
    with progress.step(f"compare on {runner}"):
        report = verify(
            sam.image_encoder,
            PromptedMaskDecoder(sam).eval(),
            known.model,
            encoder,
            decoder,
            tapped(encoder, output_names(sam.image_encoder)[1:]),
            samples(pictures, known.model),
            runner,
        )
    return report, report.misses(known.model.precision)
