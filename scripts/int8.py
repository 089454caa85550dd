"""Measure what 8 bits cost: masks of int8 exports against those of fp32, and which linear layers cost most.

python scripts/int8.py --root held-out -o benchmarks/quality/int8.json
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.check import cosine, mask_ious
from structsam_runtime.cli.console import missing, run
from structsam_runtime.contract import (
    EMBEDDING,
    HAS_MASK_INPUT,
    IMAGE,
    MASK_INPUT,
    MASKS,
    POINT_COORDS,
    POINT_LABELS,
    decoder_specs,
    encoder_specs,
)
from structsam_runtime.pictures import read_image
from structsam_runtime.predict.image import Frame
from structsam_runtime.predict.prompts import encode
from structsam_runtime.progress import Progress
from structsam_runtime.reference import within
from structsam_runtime.runners.base import Runner
from structsam_runtime.runners.onnxruntime import OnnxRuntimeRunner

try:
    import torch

    from structsam_export import pipeline
    from structsam_export.calibration import Calibration, bundled, calibrate
    from structsam_export.choices import Linear, Precision
    from structsam_export.comparing import Arrays, TorchRunner
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder.decoder import PromptedMaskDecoder
    from structsam_export.encoder.walk import WalkedEncoder
    from structsam_export.graph.quantize import quantize
    from structsam_export.progress import shown
    from structsam_export.verify import Sample, samples
except ModuleNotFoundError as error:
    missing(error)

MERGING = {"Baseline": ("structsam", 0.0), "StructSAM": ("structsam", 0.55), "Adjacent (ours)": ("adjacent", 0.55)}
SPLITS = ("photographs", "salient", "thin")
SIDE = 5
"""Boxes of a row and of a column of the grid of prompts."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    root: Annotated[Path, typer.Option(metavar="DIR", help="What scripts/held_out.py wrote.")],
    arch: Annotated[str, typer.Option(help="Architecture.")] = "vit_nano",
    pictures: Annotated[int, typer.Option(min=1, help="Number of pictures, of all splits in turn.")] = 48,
) -> None:
    """Export in fp32 and int8, unmerged and merged, and compare masks of a grid of boxes on held-out pictures."""
    check_result(output)
    read = _read(root, pictures)
    config = ExportConfig(arch)
    with tempfile.TemporaryDirectory() as folder:
        rows, masks = [], {}
        for label, (method, rate) in MERGING.items():
            mine = replace(ExportConfig.of(arch, method, rate), seed=config.seed)
            made, own = _measured(mine, label, read, Path(folder), masks.get("Baseline"))
            masks[label] = own
            rows += made
    result = {"machine": machine(), "arch": arch, "pictures": list(read), "rows": rows}
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)
