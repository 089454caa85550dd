"""What every graph rule is worth: the encoder's graph with all of them, with none, and without each.

python scripts/passes.py -o benchmarks/passes-cpu.json
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.console import missing, run
from structsam_runtime.tables import check_result, markdown, write_result
from structsam_runtime.timing import conditions, environment, interleaved, spread

try:
    import onnx

    from structsam_export import pipeline
    from structsam_export.config import ExportConfig
    from structsam_export.encoder.exported import PlannedEncoder, output_names
    from structsam_export.graph.passes import PASSES, run_passes
    from structsam_export.graph.precision import prepare
    from structsam_export.graph.save import save
    from structsam_export.graph.trace import trace
except ModuleNotFoundError as error:
    missing(error)

ALL, NONE = "all rules", "no rule"


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    arch: Annotated[str, typer.Option(help="Whose encoder, with random weights.")] = "vit_b",
    image_size: Annotated[
        int, typer.Option(help="Pixels: of less, sessions of all variants fit into memory together.")
    ] = 512,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 7,
) -> None:
    """Nodes, bytes and times in ONNX Runtime on one CPU, at the paper's rate in fp32."""
    check_result(output)
    config = ExportConfig(arch, random_weights=True, image_size=image_size)
    encoder = pipeline.load(config).image_encoder
    inputs, _ = pipeline.example_images(config)
    module = prepare(pipeline.copy_of(PlannedEncoder(encoder), half=False), half=False)
    traced = trace(module, inputs, output_names(encoder), opset=config.dialect.opset)
    sizes: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pixels = np.random.default_rng(0).normal(size=inputs["image"].shape).astype(np.float32)
        calls = {}
        for name, model in _variants(traced):
            sizes[name] = {"nodes": len(model.graph.node), "bytes": model.ByteSize()}
            path = Path(folder) / f"{name}.onnx"
            save(model, path)
            runner = stack.enter_context(OnnxRuntimeRunner(path))
            calls[name] = partial(runner.infer, {"image": pixels})
        seconds = interleaved(calls, repeat)
    result = {
        "machine": environment("cpu"),
        "encoder": config.name,
        "repeat": repeat,
        "rules": [
            {"name": name, **sizes[name], **spread(times, seconds[ALL])} for name, times in seconds.items()
        ],
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


def _variants(traced: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graph cleaned by all rules, by none, and by all but each."""
    yield ALL, run_passes(traced)[0]
    yield NONE, run_passes(traced, [])[0]
    for rule in track(PASSES, description="cleaning", transient=True):
        yield f"without {rule.__name__}", run_passes(traced, [one for one in PASSES if one is not rule])[0]


def _table(result: dict[str, Any]) -> str:
    """As Markdown."""
    everything = result["rules"][0]
    head = (
        f"{result['encoder']}. {conditions(result)}. ONNX Runtime also cleans graphs; TensorRT's parser "
        "sees them as they are."
    )
    rows = [["graph", "nodes", "more nodes", "MB", "median s", "time by medians", "by minima"]]
    for row in result["rules"]:
        rows.append(
            [
                *(row["name"], str(row["nodes"]), str(row["nodes"] - everything["nodes"])),
                *(f"{row['bytes'] / 1e6:.1f}", f"{row['median_s']:.3f}"),
                *(f"{row['ratio_median']:.3f}", f"{row['ratio_min']:.3f}"),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
