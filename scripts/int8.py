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
from structsam_runtime.manifest import Manifest
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
    """Compare masks of a grid of boxes on held-out pictures: exports, and kinds of layers in PyTorch."""
    check_result(output)
    paths = sorted(path for split in SPLITS for path in (root / split / "images").glob("*.png"))
    if not paths:
        raise UserError(f"no pictures in {root}; expected what scripts/held_out.py wrote")
    chosen = [
        paths[at] for at in np.linspace(0, len(paths) - 1, min(pictures, len(paths))).round().astype(int)
    ]
    rows: list[dict[str, Any]] = []
    unmerged: Masks | None = None
    with tempfile.TemporaryDirectory() as folder:
        for label, (method, rate) in MERGING.items():
            own: Masks | None = None
            for precision in (Precision.FP32, Precision.INT8):
                config = ExportConfig.of(arch, method, rate, precision=precision)
                made = Path(folder) / config.name
                pipeline.export(config, made, None, False, Progress())
                model = Manifest.read(made).model
                read = samples({path.name: read_image(path) for path in chosen}, model)
                encoder = OnnxRuntimeRunner(made / "encoder.onnx")
                found = masks(encoder, OnnxRuntimeRunner(made / "decoder.onnx"), read)
                own, unmerged = own or found, unmerged or found
                rows.append(row(label, str(precision), found, own, unmerged))
        rows += by_kind(arch, read[:: max(len(read) // max(kinds, 1), 1)][:kinds], made / "decoder.onnx")
    result = {"machine": machine(), "arch": arch, "pictures": [path.name for path in chosen], "rows": rows}
    text = table(result)
    write_result(output, result, text)
    typer.echo(text)


def by_kind(arch: str, read: Sequence[Sample], decoder: Path) -> list[dict[str, Any]]:
    """A row for each kind of layer alone in 8 bits, in PyTorch, without merging."""
    config = ExportConfig.of(arch, "structsam", 0.0)
    sam = pipeline.load(config)
    model = model_of(config, sam)
    found = calibrate(sam.image_encoder, [sample.feed for sample in samples(bundled(), model)])

    def measured(names: Sequence[str]) -> Masks:
        encoder = quantize(sam.image_encoder, {name: found[name].how for name in names})
        runner = TorchRunner(WalkedEncoder(encoder), *encoder_specs(model))
        return masks(runner, OnnxRuntimeRunner(decoder), read)

    own = measured([])
    groups = {f"only {kind}": [name for name in found if name.endswith(f".{kind}")] for kind in Linear}
    groups["all but blocks.0.fc2"] = [name for name in found if name != "blocks.0.fc2"]
    return [row("structsam, rate 0", what, measured(names), own, own) for what, names in groups.items()]


def masks(encoder: Runner, decoder: Runner, read: Sequence[Sample]) -> Masks:
    """The first mask of every box of the grid, for every picture: bool [P, y, x]."""
    made: Masks = []
    with encoder, decoder:
        for sample in read:
            embedding = encoder.infer(sample.feed)[EMBEDDING]
            feed = {EMBEDDING: embedding, **grid(sample.frame, 4 * embedding.shape[-1])}
            made.append(within(decoder.infer(feed)[MASKS][:, 0], sample.frame))
    return made


def grid(frame: Frame, side: int) -> Arrays:
    """A grid of boxes over a picture, each a third of it high and wide, as the decoder's inputs."""
    place = np.arange(1, SIDE + 1) / (SIDE + 1)
    x, y = np.meshgrid(place * frame.width, place * frame.height)
    centers, half = np.stack([x.ravel(), y.ravel()], -1), np.array([frame.width, frame.height]) / 6
    encoded = encode(frame, box=np.concatenate([centers - half, centers + half], 1))
    return {
        POINT_COORDS: encoded.point_coords,
        POINT_LABELS: encoded.point_labels,
        MASK_INPUT: np.zeros((len(encoded), 1, side, side), np.float32),
        HAS_MASK_INPUT: np.zeros(len(encoded), np.float32),
    }


def row(merging: str, layers: str, found: Masks, own: Masks, unmerged: Masks) -> dict[str, Any]:
    """Agreement with masks of the same merging in fp32, and with those of the unmerged model in fp32."""
    alike, whole = (
        np.concatenate([mask_ious(*pair) for pair in zip(found, other, strict=True)])
        for other in (own, unmerged)
    )
    return {
        "merging": merging,
        "layers": layers,
        "prompts": len(alike),
        "own": float(alike.mean()),
        "own_p5": float(np.percentile(alike, 5)),
        "unmerged": float(whole.mean()),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = (
        f"Masks of {result['arch']} on {len(result['pictures'])} held-out pictures, mean IoU in % over a "
        "grid of boxes: with the same merging in fp32 (mean and 5th percentile), and with the unmerged model "
        "in fp32. Exports in ONNX Runtime; rows of some layers in PyTorch, on fewer pictures."
    )
    columns = ["merging", "in 8 bits", "prompts", "own fp32", "5th percentile", "unmerged fp32"]
    lines = [
        [
            *(one["merging"], one["layers"], str(one["prompts"])),
            *(f"{100 * one[name]:.1f}" for name in ("own", "own_p5", "unmerged")),
        ]
        for one in result["rows"]
    ]
    return f"{head}\n\n{markdown([columns, *lines])}\n"


if __name__ == "__main__":
    run(main)
