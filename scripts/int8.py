"""Measure what 8 bits cost: masks of int8 exports beside those of fp32, and which linear layers cost most.

python scripts/int8.py --root held-out -o benchmarks/quality/int8.json
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.check import mask_ious
from structsam_runtime.cli.console import missing, run
from structsam_runtime.contract import (
    EMBEDDING,
    HAS_MASK_INPUT,
    MASK_INPUT,
    MASKS,
    POINT_COORDS,
    POINT_LABELS,
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
    from structsam_export import pipeline
    from structsam_export.calibration import bundled, calibrate
    from structsam_export.choices import Linear, Precision
    from structsam_export.comparing import Arrays, TorchRunner
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder.walk import WalkedEncoder
    from structsam_export.graph.quantize import quantize
    from structsam_export.verify import Sample, samples
except ModuleNotFoundError as error:
    missing(error)

MERGING = {
    "structsam, rate 0": ("structsam", 0.0),
    "structsam": ("structsam", 0.55),
    "adjacent": ("adjacent", 0.55),
}
SPLITS = ("photographs", "salient", "thin")
SIDE = 4
"""Boxes in a row and in a column of the grid of prompts."""

Masks = list[NDArray[np.bool_]]


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    root: Annotated[Path, typer.Option(metavar="DIR", help="What scripts/held_out.py wrote.")],
    arch: Annotated[str, typer.Option(help="Architecture.")] = "vit_nano",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures, evenly spaced over all splits.")] = 40,
    kinds: Annotated[int, typer.Option(min=0, help="Of these, for the table by kind of layer.")] = 10,
) -> None:
    """Compare masks of a grid of boxes on held-out pictures: exports in ONNX Runtime, kinds of layers in PyTorch."""
    check_result(output)
    paths = sorted(path for split in SPLITS for path in (root / split / "images").glob("*.png"))
    if not paths:
        raise UserError(f"no pictures in {root}; expected what scripts/held_out.py wrote")
    chosen = [
        paths[at] for at in np.linspace(0, len(paths) - 1, min(pictures, len(paths))).round().astype(int)
    ]
    rows: list[dict[str, Any]] = []
    unmerged: Masks = []
    with tempfile.TemporaryDirectory() as folder:
        for label, (method, rate) in MERGING.items():
            made = {}
            for precision in (Precision.FP32, Precision.INT8):
                config = ExportConfig.of(arch, method, rate, precision=precision)
                pipeline.export(config, Path(folder) / config.name, None, False, Progress())
                made[precision] = Path(folder) / config.name
            read = samples({path.name: read_image(path) for path in chosen}, model_of(config, None))
            rows += exported(label, made, read, unmerged)
        rows += by_kind(arch, read[:: max(len(read) // max(kinds, 1), 1)][:kinds], made[Precision.FP32])
    result = {"machine": machine(), "arch": arch, "pictures": [path.name for path in chosen], "rows": rows}
    text = table(result)
    write_result(output, result, text)
    typer.echo(text)
