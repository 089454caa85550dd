"""Build the encoders of every target and architecture as engines, and record size and build time.

python scripts/builds.py -o benchmarks/builds-rtx.json
python scripts/builds.py --precision int8 -o benchmarks/builds-rtx-int8.json
"""

import re
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import environment
from structsam_runtime.build import BuildError, EngineBuilder
from structsam_runtime.cli.console import FAILED, missing, run

try:
    import onnx
    import torch
    from torch import nn

    from structsam_export import pipeline
    from structsam_export.calibration import Calibration, Layer
    from structsam_export.choices import Engine, Linear, Precision, Target
    from structsam_export.config import ExportConfig
    from structsam_export.graph.quantize import TYPES, Quantization
    from structsam_export.models.architectures import ARCHITECTURES
    from structsam_export.pipeline import LintError
    from structsam_export.targets import Dialect, dialect, supports
    from structsam_runtime.progress import Progress
except ModuleNotFoundError as error:
    missing(error)

CODES = {"int8": b"Int8", "fp8": b"FP8"}
"""Types of 8 bits, and what an engine calls them."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    archs: Annotated[str, typer.Option(metavar="LIST", help="Architectures.")] = "vit_b,vit_l,vit_h",
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels; 0: the default.")] = 0,
    engine: Annotated[Engine, typer.Option(help="The library that builds.")] = Engine.TENSORRT_RTX,
    precision: Annotated[Precision, typer.Option(help="Precision of the encoders.")] = Precision.FP16,
) -> None:
    """Build every encoder in the dialect of every target, at rate 0.55 with random weights."""
    check_result(output)
    if unknown := set(archs.split(",")) - set(ARCHITECTURES):
        raise UserError(
            f"--archs {', '.join(unknown)} is unknown; expected some of {','.join(ARCHITECTURES)}"
        )
    alike: dict[Dialect, list[Target]] = {}
    for one in Target:
        if supports(one, precision):
            alike.setdefault(dialect(one, precision), []).append(one)
    configs = [
        ExportConfig(
            arch,
            random_weights=True,
            image_size=image_size,
            precision=precision,
            target=targets[0],
        )
        for arch in archs.split(",")
        for targets in alike.values()
    ]
    builder = EngineBuilder(engine, precision=precision)
    try:
        builds = [_built(config, builder, alike[config.dialect]) for config in configs]
    except (LintError, BuildError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(FAILED) from error
    result = {
        "machine": environment(str(engine)),
        "capabilities": builder.hardware.capabilities,
        "rate": configs[0].rate,
        "precision": precision,
        "builds": builds,
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


def _built(config: ExportConfig, builder: EngineBuilder, targets: list[Target]) -> dict[str, Any]:
    """Build the encoder of a config; returns a row of the result, which holds for all of the targets.

    Raises:
        LintError: the graph has nodes that TensorRT does not support.
        BuildError: the engine cannot be built.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph, built = Path(folder) / "encoder.onnx", Path(folder) / "encoder.engine"
        pipeline.build_encoder(config, _encoder(config), graph, Progress())
        begun = time.perf_counter()
        builder.build(graph, built, {})
        seconds = time.perf_counter() - begun
        return {
            "arch": config.arch,
            "image_size": config.image_size,
            "targets": targets,
            "opset": config.dialect.opset,
            "attention": config.form,
            "nodes": len(onnx.load(graph, load_external_data=False).graph.node),
            "engine_bytes": built.stat().st_size,
            **{f"{kind}_products": products(built, name) for kind, name in CODES.items()},
            "seconds": round(seconds, 1),
        }


def _encoder(config: ExportConfig) -> nn.Module:
    """The encoder of a config with random weights; in 8 bits, all ranges are equal: they build alike."""
    encoder: nn.Module = pipeline.load(config).image_encoder
    if not config.precision.quantized:
        return encoder
    codes = TYPES[config.precision]
    low = {Linear.FC2: -0.2} if codes is torch.int8 else {}  # int8 moves what comes out of GELU
    layers = {
        kind.of(block): Layer(Quantization(low.get(kind, -6.0), 6.0, codes=codes), 0.0)
        for block in range(config.architecture.depth)
        for kind in Linear
    }
    return pipeline.quantized(config, encoder, Calibration({}, layers, ()))


def products(engine: Path, name: bytes) -> int:
    """How many matrix products of a TensorRT-RTX engine have a constant of a type, by its layers' text."""
    return len(re.findall(rb"fully_connected=\{[^\n]*?_constant%s\"" % name, engine.read_bytes()))


def _table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = result["machine"]
    head = (
        f"Encoders at rate {result['rate']:g} in {result['precision']}, built by {machine['library']} for "
        f"capabilities {', '.join(result['capabilities'])} on {machine['processor']}, {machine['date']}."
    )
    rows = [["encoder", "pixels", "targets", "opset", "attention", "nodes", "engine MB", "build s"]]
    kinds = [kind for kind in CODES if any(row[f"{kind}_products"] for row in result["builds"])]
    rows[0] += [f"{kind} products" for kind in kinds]
    for row in result["builds"]:
        rows.append(
            [
                *(row["arch"], str(row["image_size"]), ", ".join(row["targets"])),
                *(str(row["opset"]), row["attention"], str(row["nodes"])),
                *(f"{row['engine_bytes'] / 1e6:.0f}", f"{row['seconds']:.0f}"),
                *(str(row[f"{kind}_products"]) for kind in kinds),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
