"""Measure the effect of every graph rule: graphs with all rules, with none, and without each one.

python scripts/passes.py -o benchmarks/passes-cpu.json
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import conditions, environment, interleaved, spread
from structsam_runtime.cli.console import FAILED, missing, run
from structsam_runtime.contract import DECODER_OUTPUTS, EMBEDDING, IMAGE
from structsam_runtime.runners.base import Array

try:
    import onnx

    from structsam_export import pipeline
    from structsam_export.choices import Precision
    from structsam_export.config import ExportConfig
    from structsam_export.encoder.decoder import PromptedMaskDecoder
    from structsam_export.encoder.exported import PlannedEncoder, output_names
    from structsam_export.graph.passes import PASSES, Pass, run_passes
    from structsam_export.graph.save import save
except ModuleNotFoundError as error:
    missing(error)

ALL, NONE = "all rules", "no rule"
TIMED = "encoder"
"""The graph that is also timed."""
ERROR = 1e-4
"""Largest allowed difference of embeddings: ONNX Runtime fuses other nodes, and sums in another order."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    arch: Annotated[str, typer.Option(help="Architecture, with random weights.")] = "vit_b",
    image_size: Annotated[
        int, typer.Option(help="Side of the input in pixels; at 512 all sessions fit into memory.")
    ] = 512,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, interleaved.")] = 7,
) -> None:
    """Count the nodes of several graphs, and time one in ONNX Runtime on the CPU, at rate 0.55."""
    check_result(output)
    config = ExportConfig(arch, random_weights=True, image_size=image_size)
    rows: dict[str, dict[str, Any]] = {name: {"name": name, "nodes": {}} for name in _rules()}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pixels = np.random.default_rng(0).normal(size=(1, 3, config.image_size, config.image_size))
        calls: dict[str, Callable[[], dict[str, Array]]] = {}
        for graph, model in _traced(config):
            for name, rules in track(_rules().items(), description=f"cleaning {graph}", transient=True):
                cleaned, _ = run_passes(model, rules)
                rows[name]["nodes"][graph] = len(cleaned.graph.node)
                if graph == TIMED:
                    rows[name]["bytes"] = cleaned.ByteSize()
                    path = Path(folder) / f"{name}.onnx"
                    save(cleaned, path)
                    runner = stack.enter_context(OnnxRuntimeRunner(path))
                    calls[name] = partial(runner.infer, {IMAGE: pixels.astype(np.float32)})
        made = {name: call()[EMBEDDING] for name, call in calls.items()}
        _insist({name: float(np.abs(one - made[ALL]).max()) for name, one in made.items()})
        seconds = interleaved(calls, repeat)
    result = {
        "machine": environment("cpu"),
        "encoder": config.name,
        "repeat": repeat,
        "rules": [row | spread(seconds[name], seconds[ALL]) for name, row in rows.items()],
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


def _insist(errors: dict[str, float]) -> None:
    """Exit if a graph computes something else: its time would not be comparable."""
    if wrong := [f"{name} by {error:.1e}" for name, error in errors.items() if not error <= ERROR]:
        typer.echo(f"failed: embeddings differ: {', '.join(wrong)}", err=True)
        raise typer.Exit(FAILED)


def _rules() -> dict[str, Sequence[Pass]]:
    """The sets of rules: all, none, and all but one."""
    without = {f"without {rule.__name__}": [one for one in PASSES if one is not rule] for rule in PASSES}
    return {ALL: PASSES, NONE: (), **without}


def _traced(config: ExportConfig) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Graphs of several kinds before any rule; the timed one comes first."""
    kinds = {
        TIMED: config,
        "fp16": replace(config, precision=Precision.FP16),
        "open batch": replace(config, dynamic_batch=True),
    }
    sam = pipeline.load(config)
    module = PlannedEncoder(sam.image_encoder)
    for kind, one in kinds.items():
        outputs = output_names(sam.image_encoder)
        yield kind, pipeline.traced(one, module, *pipeline.example_images(one), outputs)
    prompts = pipeline.example_prompts(config)
    yield "decoder", pipeline.traced(config, PromptedMaskDecoder(sam).eval(), *prompts, DECODER_OUTPUTS)


def _table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    everything = result["rules"][0]
    head = (
        f"{result['encoder']}. {conditions(result)}. ONNX Runtime also cleans graphs; TensorRT's parser "
        "sees them as they are."
    )
    graphs = list(everything["nodes"])
    rows = [["rules", *(f"nodes, {graph}" for graph in graphs), "MB", "median s", "by medians", "by minima"]]
    for row in result["rules"]:
        first = row is everything
        nodes = (
            f"{row['nodes'][graph] - (0 if first else everything['nodes'][graph]):{'' if first else '+'}}"
            for graph in graphs
        )
        rows.append(
            [
                *(row["name"], *nodes, f"{row['bytes'] / 1e6:.1f}", f"{row['median_s']:.3f}"),
                *(f"{row['ratio_median']:.3f}", f"{row['ratio_min']:.3f}"),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
