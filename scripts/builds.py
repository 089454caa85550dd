"""Encoders of every target and architecture as engines: what an engine library makes of them.

python scripts/builds.py -o benchmarks/builds-rtx.json
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import environment
from structsam_runtime.cli.console import FAILED, missing, run

try:
    import onnx

    from structsam_export import pipeline
    from structsam_export.choices import Engine, Precision, Target
    from structsam_export.config import ExportConfig
    from structsam_export.engine import BuildError, EngineBuilder
    from structsam_export.models.architectures import ARCHITECTURES
    from structsam_export.pipeline import LintError
    from structsam_export.progress import Progress
    from structsam_export.targets import DIALECTS
except ModuleNotFoundError as error:
    missing(error)


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    archs: Annotated[str, typer.Option(metavar="LIST", help="Whose encoders.")] = "vit_b,vit_l,vit_h",
    image_size: Annotated[int, typer.Option(help="Pixels; 0 is the architecture's own.")] = 0,
    engine: Annotated[Engine, typer.Option(help="The library that builds.")] = Engine.TENSORRT_RTX,
) -> None:
    """Build an encoder in every dialect that targets have, at the paper's rate, in fp16, weights random."""
    check_result(output)
    if unknown := set(archs.split(",")) - set(ARCHITECTURES):
        raise UserError(
            f"--archs {', '.join(unknown)} is unknown; expected some of {','.join(ARCHITECTURES)}"
        )
    targets = {dialect: [one for one in Target if DIALECTS[one] is dialect] for dialect in DIALECTS.values()}
    configs = [
        ExportConfig(
            arch,
            random_weights=True,
            image_size=image_size,
            precision=Precision.FP16,
            target=alike[0],
        )
        for arch in archs.split(",")
        for alike in targets.values()
    ]
    builder = EngineBuilder(engine)
    try:
        builds = [_built(config, builder, targets[config.dialect]) for config in configs]
    except (LintError, BuildError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(FAILED) from error
    result = {
        "machine": environment(str(engine)),
        "capabilities": builder.hardware.capabilities,
        "rate": configs[0].rate,
        "builds": builds,
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


def _built(config: ExportConfig, builder: EngineBuilder, targets: list[Target]) -> dict[str, Any]:
    """What came of a config's encoder, which is the same for all of the targets.

    Raises:
        LintError, BuildError: its graph is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph, built = Path(folder) / "encoder.onnx", Path(folder) / "encoder.engine"
        pipeline.build_encoder(config, pipeline.load(config), graph, Progress())
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
            "seconds": round(seconds, 1),
        }


def _table(result: dict[str, Any]) -> str:
    """As Markdown."""
    machine = result["machine"]
    head = (
        f"Encoders at rate {result['rate']:g} in fp16, built by {machine['library']} for capabilities "
        f"{', '.join(result['capabilities'])} on {machine['processor']}, {machine['date']}."
    )
    rows = [["encoder", "pixels", "targets", "opset", "attention", "nodes", "engine MB", "build s"]]
    for row in result["builds"]:
        rows.append(
            [
                *(row["arch"], str(row["image_size"]), ", ".join(row["targets"])),
                *(str(row["opset"]), row["attention"], str(row["nodes"])),
                *(f"{row['engine_bytes'] / 1e6:.0f}", f"{row['seconds']:.0f}"),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
