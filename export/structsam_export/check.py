"""Repeat the comparison of `verify` on an existing export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Manifest, content, entry
from structsam_runtime.pictures import say
from structsam_runtime.progress import Progress
from structsam_runtime.runners import create, kind_of

from .comparing import Arrays, digest, tapped
from .config import ExportConfig
from .encoder.decoder import PromptedMaskDecoder
from .encoder.exported import output_names
from .pipeline import fetch, load, weights_source
from .verify import Report, read_pictures, samples, verify


def compare(
    folder: Path,
    images: Path | None,
    runner: str,
    checkpoint: Path | None,
    progress: Progress,
    verified: bool = True,
) -> tuple[Report, list[str]]:
    """Compare an export with the PyTorch model that it was made from.

    Args:
        folder: the export.
        images: a folder of images; None for the photographs of scikit-image.
        runner: one of structsam_runtime.runners.RUNNERS.
        checkpoint: the weights, if the file was moved; its hash must be that of the manifest.
        progress: shows every step.
        verified: False also takes .onnx files that were changed; see `create`.

    Returns:
        The measurements, and one line for every threshold that is missed.

    Raises:
        UserError: the folder is no export, the weights are not those of the export, the runner is not
            available, or all pictures calibrated the export.
        NotFiniteError: an output contains NaN or infinity.
    """
    kind_of(runner)  # fails early, before slow steps
    known = Manifest.read(folder)
    said = content(folder)
    pictures = unseen(read_pictures(images), said)
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
    encoder, decoder = (create(folder, part, runner, verified=verified) for part in ("encoder", "decoder"))
    with progress.step(f"compare on {runner}"):
        report, _ = verify(
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


def unseen(pictures: Arrays, said: Mapping[str, Any]) -> Arrays:
    """Pictures that did not calibrate an export in 8 bits.

    Args:
        pictures: uint8 RGB [H, W, 3] by name; those left out are reported on stderr.
        said: the export's manifest.

    Raises:
        UserError: there is none.
    """
    calibrated = entry(said, "quantization.pictures", dict).values() if "quantization" in said else ()
    left = {name: picture for name, picture in pictures.items() if digest(picture) not in calibrated}
    if not left:
        raise UserError("all pictures calibrated this export; give others with --images")
    if len(left) < len(pictures):
        told = ", ".join(name for name in pictures if name not in left)
        say("skipped", f"{told} calibrated this export; left out")
    return left
