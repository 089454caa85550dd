"""Time every form of attention for one layer, to choose the form of each `--target`.

python scripts/attention.py -o benchmarks/attention-cpu.json
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from structsam_runtime import OnnxRuntimeRunner, UserError
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import conditions, environment, interleaved, spread
from structsam_runtime.cli.console import FAILED, missing, run
from structsam_runtime.runners.base import Array

try:
    from torch import Tensor

    from structsam_export import pipeline
    from structsam_export.analysis.layers import entering
    from structsam_export.choices import Attention, Precision, Target
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder.attention import MergedAttention, MergedBlock
    from structsam_export.graph.passes import run_passes
    from structsam_export.graph.save import save
    from structsam_export.merging import Method
    from structsam_export.recipe import RATE, Uniform
    from structsam_export.verify import read_pictures
except ModuleNotFoundError as error:
    missing(error)

RATES = (0.0, RATE)
ERROR = {False: 1e-5, True: 1e-2}
"""Largest allowed difference from the gathered form in fp32 and in fp16, for outputs of magnitude one."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    arch: Annotated[str, typer.Option(help="Architecture of the layers.")] = "vit_b",
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels; 0: the default.")] = 0,
    runner: Annotated[str, typer.Option(help="ONNX Runtime's cpu or cuda.")] = "cpu",
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, interleaved.")] = 15,
) -> None:
    """Time one window layer and one global layer with random weights, unmerged and at rate 0.55."""
    check_result(output)
    if runner not in ("cpu", "cuda"):
        raise UserError(f"--runner {runner} is unknown; expected cpu or cuda")
    config = ExportConfig(arch, random_weights=True, image_size=image_size)
    sam = pipeline.load(config)
    picture = next(iter(read_pictures(None).values()))
    features = entering(sam.image_encoder, model_of(config, sam), [picture])
    blocks = {"window": 0, "global": config.architecture.global_blocks[0]}
    rows: list[dict[str, Any]] = []
    for (kind, index), rate in product(blocks.items(), RATES):
        merged = replace(config, merging=Uniform(rate_window=rate, rate_global=rate))
        method = merged.methods()[index]
        layer = Layer(kind, rate, config, sam.image_encoder.blocks[index], method, features)
        rows += _timed(layer, runner, fp16, repeat)
    result = {
        "machine": environment(runner),
        "arch": arch,
        "image_size": config.image_size,
        "precision": "fp16" if fp16 else "fp32",
        "repeat": repeat,
        "layers": rows,
    }
    text = _table(result)
    write_result(output, result, text)
    typer.echo(text)


@dataclass(frozen=True)
class Layer:
    """The attention of a block, and its input.

    Attributes:
        kind, rate: entries of the table.
        config: the model of the layer.
        block: the patched block.
        method: its merging method.
        features: [1, H, W, C] fp32, features of a photograph.
    """

    kind: str
    rate: float
    config: ExportConfig
    block: MergedBlock
    method: Method
    features: Tensor

    def inputs(self, half: bool) -> dict[str, Tensor]:
        """The slots [B', K, C] and their positions [B', K]."""
        plan = self.method.plan(self.features, self.block.windows)
        slots = plan.merge(self.block.windows.cut(self.features))
        return {"slots": slots.half() if half else slots, "position": plan.position.contiguous()}

    def write(self, form: Attention, inputs: dict[str, Tensor], half: bool, path: Path) -> None:
        """Write the graph of a form; all forms use the dialect that supports every one."""
        attention = MergedAttention(self.block.original.attn, self.block.windows.side, form=form)
        precision = Precision.FP16 if half else Precision.FP32
        config = replace(self.config, precision=precision, target=Target.RTX)
        traced = pipeline.traced(config, attention, inputs, None, ["attended"])
        save(run_passes(traced)[0], path)


def _timed(layer: Layer, runner: str, half: bool, repeat: int) -> Iterator[dict[str, Any]]:
    """One row of the result for every form of a layer; exits if a form computes something else."""
    inputs, what = layer.inputs(half), f"{layer.kind} layer at rate {layer.rate:g}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runners: dict[str, OnnxRuntimeRunner] = {}
        for form in track(Attention, description=f"tracing {what}", transient=True):
            path = Path(folder) / f"{form}.onnx"
            layer.write(form, inputs, half, path)
            runners[form] = stack.enter_context(OnnxRuntimeRunner(path, runner))
        feeds: dict[str, Array] = {name: value.numpy() for name, value in inputs.items()}
        made = {form: one.infer(feeds)["attended"].astype(np.float32) for form, one in runners.items()}
        errors = {form: float(np.abs(y - made[Attention.GATHER]).max()) for form, y in made.items()}
        if wrong := [f"{form} by {error:.1e}" for form, error in errors.items() if not error <= ERROR[half]]:
            typer.echo(f"failed: {what} differs from gather in {', '.join(wrong)}", err=True)
            raise typer.Exit(FAILED)
        calls = {form: partial(one.infer_on_device, feeds) for form, one in runners.items()}
        seconds = interleaved(calls, repeat, f"timing {what}")
    for name, times in seconds.items():
        told = {"layer": layer.kind, "rate": layer.rate, "form": name, "error": errors[name]}
        yield told | spread(times, seconds[Attention.WIDENED])


def _table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = (
        f"Attention of one layer of {result['arch']} at {result['image_size']} pixels in "
        f"{result['precision']}, its projections included. {conditions(result)}."
    )
    rows = [["layer", "rate", "form", "median ms", "min to max", "of widened", "by minima", "error"]]
    for row in result["layers"]:
        times = [1e3 * row[name] for name in ("median_s", "min_s", "max_s")]
        rows.append(
            [
                *(row["layer"], f"{row['rate']:g}", row["form"]),
                *(f"{times[0]:.1f}", f"{times[1]:.1f} to {times[2]:.1f}"),
                *(f"{row['ratio_median']:.2f}", f"{row['ratio_min']:.2f}", f"{row['error']:.0e}"),
            ]
        )
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
