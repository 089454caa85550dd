"""Every form of attention for one layer, in time: which one `--target` should take.

python scripts/attention.py -o benchmarks/attention-cpu.json
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from structsam_runtime import OnnxRuntimeRunner, UserError
from structsam_runtime.console import missing, run
from structsam_runtime.runners.base import Array
from structsam_runtime.tables import check_result, markdown, write_result
from structsam_runtime.timing import conditions, environment, interleaved, spread

try:
    import torch
    from torch import Tensor

    from structsam_export import pipeline
    from structsam_export.analysis.layers import entering
    from structsam_export.choices import Attention
    from structsam_export.config import ExportConfig
    from structsam_export.encoder.attention import MergedAttention, MergedBlock
    from structsam_export.graph.passes import run_passes
    from structsam_export.graph.precision import prepare
    from structsam_export.graph.save import save
    from structsam_export.graph.trace import trace
    from structsam_export.manifest import model_of
    from structsam_export.targets import FUSED
    from structsam_export.verify import read_pictures
except ModuleNotFoundError as error:
    missing(error)

RATES = (0.0, 0.55)
ERROR = {False: 1e-5, True: 1e-2}
"""By which forms may differ from the gathered one in fp32 and in fp16, where outputs are of order one."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    arch: Annotated[str, typer.Option(help="Whose layers.")] = "vit_b",
    image_size: Annotated[int, typer.Option(help="Pixels; 0 is the architecture's own.")] = 0,
    runner: Annotated[str, typer.Option(help="cpu or cuda, of ONNX Runtime.")] = "cpu",
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 15,
) -> None:
    """A window layer and a global one of random weights, unmerged and at the paper's rate."""
    check_result(output)
    rows: list[dict[str, Any]] = []
    config = ExportConfig(arch, random_weights=True, image_size=image_size)
    for kind, rate in product(("window", "global"), RATES):
        block, inputs = _layer(config, kind, rate, fp16)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            runners: dict[str, OnnxRuntimeRunner] = {}
            for form in track(Attention, description=f"tracing {kind} {rate:g}", transient=True):
                path = Path(folder) / f"{form}.onnx"
                _write(block, form, inputs, path, fp16)
                runners[form] = stack.enter_context(OnnxRuntimeRunner(path, runner))
            feeds: dict[str, Array] = {name: value.numpy() for name, value in inputs.items()}
            made = {form: one.infer(feeds)["attended"].astype(np.float32) for form, one in runners.items()}
            calls = {form: partial(one.infer, feeds) for form, one in runners.items()}
            seconds = interleaved(calls, repeat, f"timing {kind} {rate:g}")
        rows += _rows(kind, rate, made, seconds, fp16)
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


@torch.no_grad()
def _layer(config: ExportConfig, kind: str, rate: float, half: bool) -> tuple[MergedBlock, dict[str, Tensor]]:
    """A block, and the slots that enter its attention with their positions."""
    sam = pipeline.load(config)
    whole = config.architecture.global_blocks[0]
    block: MergedBlock = sam.image_encoder.blocks[0 if kind == "window" else whole]
    method = ExportConfig(config.arch, rate_window=rate, rate_global=rate).methods()[0]
    picture = next(iter(read_pictures(None).values()))
    features = entering(sam.image_encoder, model_of(config, sam), [picture])
    plan = method.plan(features, block.windows)
    slots = plan.merge(block.windows.cut(features))
    return block, {"slots": slots.half() if half else slots, "position": plan.position.contiguous()}


def _write(block: MergedBlock, form: Attention, inputs: dict[str, Tensor], path: Path, half: bool) -> None:
    """The graph of a block's attention, all in the dialect that has every form."""
    attention = MergedAttention(block.original.attn, block.windows.side, form=form)
    module = prepare(pipeline.copy_of(attention, half), half)
    model, _ = run_passes(trace(module, inputs, ["attended"], opset=FUSED.opset))
    save(model, path)


def _rows(
    kind: str, rate: float, made: dict[str, Array], seconds: dict[str, list[float]], half: bool
) -> Iterator[dict[str, Any]]:
    """What is to be told of every form.

    Raises:
        UserError: a form computes something else.
    """
    for form, times in seconds.items():
        error = float(np.abs(made[form] - made[Attention.GATHER]).max())
        if not error <= ERROR[half]:
            raise UserError(f"{form} differs by {error:.1e} from gather; expected at most {ERROR[half]:g}")
        compared = spread(times, seconds[Attention.WIDENED])
        yield {"layer": kind, "rate": rate, "form": form, "error": error, **compared}


def _table(result: dict[str, Any]) -> str:
    """As Markdown."""
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
