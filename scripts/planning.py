"""Measure the cost of planning: energy, matching and merging of every method for one layer of ViT-B.

python scripts/planning.py -o benchmarks/planning-cpu.json
"""

import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import conditions, environment, interleaved
from structsam_runtime.cli.console import missing, run

try:
    import torch
    from torch import Tensor, nn

    from structsam_export.analysis.layers import entering
    from structsam_export.analysis.macs import BlockMacs, encoder_macs
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder import apply
    from structsam_export.graph.passes import run_passes
    from structsam_export.graph.save import save
    from structsam_export.graph.trace import trace
    from structsam_export.merging import Method, Windows
    from structsam_export.models.checkpoints import build_sam, load_sam
    from structsam_export.verify import read_pictures
except ModuleNotFoundError as error:
    missing(error)

ARCH = "vit_b"
LAYERS = {"window": 6, "global": 5}
"""Measured blocks of ViT-B; ALGM runs both of its stages from block 5 on."""
VARIANTS = {
    "structsam, head mean": "structsam:channels=heads",
    "structsam, all channels": "structsam",
    "bipartite": "bipartite",
    "bipartite, replace": "bipartite:reduction=replace",
    "tome": "tome",
    "tomesd": "tomesd",
    "pitome": "pitome",
    "vidtome": "vidtome",
    "algm": "algm",
    "adjacent": "adjacent",
    "adjacent, replace": "adjacent:reduction=replace",
}


class Planning(nn.Module):
    """The plan and the merged slots: everything that merging adds to a layer before its attention."""

    def __init__(self, method: Method, windows: Windows) -> None:
        super().__init__()
        self.method, self.windows = method, windows

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[1, H, W, C] to slot [B', N], position [B', K] and the merged slots [B', K, C]."""
        plan = self.method.plan(features, self.windows)
        source = self.windows.source(features.flatten(0, 2))
        return plan.slot, plan.position, plan.merge_rows(source, self.windows.rows(1, features.device))


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    rate: Annotated[float, typer.Option(help="Share of tokens to remove.")] = 0.55,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, interleaved.")] = 15,
) -> None:
    """Time every method in ONNX Runtime on the CPU, on features of a photograph, in interleaved runs."""
    check_result(output)
    configs = {
        name: ExportConfig.of(ARCH, method, rate, random_weights=True) for name, method in VARIANTS.items()
    }
    features = photograph(next(iter(configs.values()))).numpy()
    grid = features.shape[1]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runners = {}
        for name, config in track(configs.items(), description="tracing", transient=True):
            for kind, block in LAYERS.items():
                side = config.architecture.window if kind == "window" else grid
                module = Planning(config.methods()[block], Windows(grid, grid, side))
                path = folder / f"{name}-{kind}.onnx"
                model = trace(module, {"features": torch.from_numpy(features)}, ["slot", "position", "slots"])
                save(run_passes(model)[0], path)
                runners[name, kind] = stack.enter_context(OnnxRuntimeRunner(path))
        calls = {key: partial(runner.infer, {"features": features}) for key, runner in runners.items()}
        seconds = interleaved(calls, repeat)
    result = {
        "machine": environment("cpu"),
        "arch": ARCH,
        "rate": rate,
        "repeat": repeat,
        "layers": [row(name, kind, configs[name], times) for (name, kind), times in seconds.items()],
    }
    text = table(result)
    write_result(output, result, text)
    typer.echo(text)


def photograph(config: ExportConfig) -> Tensor:
    """Features of a photograph after patch embedding and first norm with random weights: [1, H, W, C]."""
    sam = load_sam(ARCH, config.image_size, None, random_weights=True)
    picture = next(iter(read_pictures(None).values()))
    return entering(sam.image_encoder, model_of(config, sam), [picture])


def row(name: str, kind: str, config: ExportConfig, times: list[float]) -> dict[str, Any]:
    """The row of one method and one kind of layer."""
    with torch.device("meta"):
        encoder = build_sam(ARCH).image_encoder
    apply(encoder, config.methods())
    counted: BlockMacs = encoder_macs(encoder).blocks[LAYERS[kind]]
    return {
        "method": name,
        "kind": kind,
        "energy_gmac": counted.energy / 1e9,
        "similarity_gmac": counted.similarity / 1e9,
        "averaging_gmac": counted.averaging / 1e9,
        "median_ms": round(1e3 * statistics.median(times), 3),
        "min_ms": round(1e3 * min(times), 3),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = (
        f"One layer of {result['arch']} at 1024 pixels, rate {result['rate']:g}: deciding what merges, and "
        f"merging it. {conditions(result)}."
    )
    columns = ["layer", "method", "energy", "similarity", "averaging", "GMAC", "median ms", "min ms"]
    lines = [columns]
    for layer in sorted(result["layers"], key=lambda one: str(one["kind"])):
        parts = [layer[f"{name}_gmac"] for name in ("energy", "similarity", "averaging")]
        lines.append(
            [
                *(layer["kind"], layer["method"]),
                *(f"{part:.4f}" if part else "" for part in [*parts, sum(parts)]),
                *(f"{layer['median_ms']:.1f}", f"{layer['min_ms']:.1f}"),
            ]
        )
    return f"{head}\n\n{markdown(lines)}\n"


if __name__ == "__main__":
    run(main)
