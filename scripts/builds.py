"""Encoders of every target and architecture as engines: what an engine library makes of them.

python scripts/builds.py -o benchmarks/builds-rtx.json
"""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime.console import missing, run
from structsam_runtime.machine import machine
from structsam_runtime.tables import check_result, markdown, write_result

try:
    import onnx

    from structsam_export import pipeline
    from structsam_export.choices import Engine
    from structsam_export.config import ExportConfig
    from structsam_export.engine import EngineBuilder
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
    """Build one encoder of every dialect that targets have, at the paper's rate, in fp16, weights random."""
    check_result(output)
    builder, rows = EngineBuilder(engine), []
    for arch in archs.split(","):
        for dialect in dict.fromkeys(DIALECTS.values()):
            targets = [target for target, one in DIALECTS.items() if one is dialect]
            config = ExportConfig(
                arch, random_weights=True, image_size=image_size, fp16=True, target=targets[0]
            )
            rows.append({"arch": arch, "targets": targets, **_built(config, builder)})
    result = {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "library": f"{engine} {builder.version}",
        "capabilities": builder.hardware.capabilities,
        "builds": rows,
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


def _built(config: ExportConfig, builder: EngineBuilder) -> dict[str, Any]:
    """What came of a config's encoder.

    Raises:
        EngineError: the library refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph, built = Path(folder) / "encoder.onnx", Path(folder) / "encoder.engine"
        pipeline.build_encoder(config, pipeline.load(config), graph, Progress())
        begun = time.perf_counter()
        builder.build(graph, built, {})
        return {
            "opset": config.dialect.opset,
            "attention": config.form,
            "nodes": len(onnx.load(graph, load_external_data=False).graph.node),
            "engine_bytes": built.stat().st_size,
            "seconds": round(time.perf_counter() - begun, 1),
        }


def _table(result: dict[str, Any]) -> str:
    """As Markdown."""
    head = (
        f"Encoders at rate 0.55 in fp16, built by {result['library']} for compute capabilities "
        f"{', '.join(result['capabilities'])}. {result['machine']}, {result['date']}."
    )
    rows = [["encoder", "targets", "opset", "attention", "nodes", "engine MB", "build s"]]
    for row in result["builds"]:
        rows.append(
            [
                *(row["arch"], ", ".join(row["targets"]), str(row["opset"]), row["attention"]),
                *(str(row["nodes"]), f"{row['engine_bytes'] / 1e6:.0f}", f"{row['seconds']:.0f}"),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
