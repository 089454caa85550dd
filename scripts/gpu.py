"""Check and time kernels and exports on one GPU, with one command.

python scripts/gpu.py -o benchmarks/gpu.json
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from structsam_runtime import Manifest, UserError
from structsam_runtime.benchmarking.machine import counted
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import as_row, environment, footprint, interleaved, spread
from structsam_runtime.cli.console import FAILED, missing, run
from structsam_runtime.contract import IMAGE
from structsam_runtime.predict.predictor import BATCH
from structsam_runtime.runners import create
from structsam_runtime.runners.base import Array, Runner

try:
    import torch
    from torch import Tensor

    from structsam_export import pipeline
    from structsam_export.analysis.layers import entering
    from structsam_export.check import compare
    from structsam_export.choices import Attention, Engine, Precision, Target
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder.patch import windows_of
    from structsam_export.merging import StructSAM, Windows
    from structsam_export.merging.kernels import TensorKernels
    from structsam_export.models.architectures import ARCHITECTURES
    from structsam_export.progress import Progress
    from structsam_export.rivals import Rival, rival
    from structsam_export.verify import read_pictures
    from structsam_plugins import KernelError, Kernels, Layer
    from structsam_plugins.build import build
except ModuleNotFoundError as error:
    missing(error)

RIVALS = (Rival.EAGER, Rival.SDPA, Rival.COMPILE)
AGREEMENT = 0.999
"""Least share of tokens with the same slot: energies differ by rounding, and so do a few slots."""
CALLS = 20
"""Calls of a kernel in one timing; a single call is shorter than its launch."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the page is written beside it as .md.")
    ],
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = "vit_b",
    image_size: Annotated[
        int, typer.Option(help="Side of the input in pixels; 0: the size of the architecture.")
    ] = 0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights; no download, same latency.")
    ] = False,
    rates: Annotated[str, typer.Option(metavar="LIST", help="Rates of merging.")] = "0,0.35,0.55,0.75",
    batches: Annotated[str, typer.Option(metavar="LIST", help="Images per call.")] = "1,8",
    engine: Annotated[
        Engine | None, typer.Option(help="Also build and time engines; needs the library.")
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(metavar="LIBRARY", help="Also build and time engines with plugins: plugins/README.md."),
    ] = None,
    forms: Annotated[
        bool, typer.Option("--forms", help="Also time every form of attention, at the last rate.")
    ] = False,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try this command without a GPU.")] = "cuda",
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, interleaved.")] = 20,
) -> None:
    """Compare kernels and exports with PyTorch on this GPU; if all pass, time them beside rivals."""
    check_result(output)
    sizes, shares = [int(size) for size in _numbers("--batches", batches)], _numbers("--rates", rates)
    if not all(1 <= size <= BATCH for size in sizes):
        raise UserError(f"--batches {batches} is out of range; expected numbers from 1 to {BATCH}")
    _require(device, engine, plugins)
    configs = [
        ExportConfig.of(
            arch,
            rate=share,
            random_weights=random_weights,
            image_size=image_size,
            precision=Precision.FP16 if device == "cuda" else Precision.FP32,
            dynamic_batch=True,
            engine=engine,
        )
        for share in shares
    ]
    others = _other_forms(configs[-1]) if forms else []
    result = _measured(configs, others, plugins, sizes, repeat, device)
    page = _page(result)
    write_result(output, result, page)
    typer.echo(page)


def _measured(
    configs: list[ExportConfig],
    others: list[ExportConfig],
    plugins: Path | None,
    sizes: list[int],
    repeat: int,
    device: str,
) -> dict[str, Any]:
    """Check kernels and exports, time them if all pass, and return the result.

    Args:
        configs: the exports, one for every rate.
        others: further exports, whose layers are not checked separately.
        plugins: the library for further engines with plugins.
        sizes: batch sizes.
        repeat: timed runs.
        device: cuda or cpu.
    """
    half = device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kernels = _kernels(device, work)
        layers = list(_layers(configs, device))
        checks = [_checked(kernels, layer, x) for layer in layers for x in layer.types(half)]
        _insist(checks)  # before exports, which take minutes
        outs = _exports(configs, others, plugins, device, work)
        checks += [_compared(out, runner) for out, runner in outs]
        _insist(checks)
        contestants = _contestants(outs, work, device)
        pixels = configs[0].image_size
        return {
            "machine": environment(device),
            "arch": configs[0].arch,
            "image_size": pixels,
            "precision": configs[0].precision,
            "repeat": repeat,
            "checks": checks,
            "encoders": [row for size in sizes for row in _raced(contestants, pixels, size, repeat, device)],
            "kernels": [row for layer in layers for row in _steps(kernels, layer, half, repeat)],
        }


def _kernels(device: str, work: Path) -> TensorKernels:
    try:
        return TensorKernels(Kernels(build(device, work)))
    except KernelError as error:
        raise UserError(str(error)) from error


def _exports(
    configs: list[ExportConfig], others: list[ExportConfig], plugins: Path | None, device: str, work: Path
) -> list[tuple[Path, str]]:
    """Make the exports; returns every export with every runner to test."""
    engine = configs[0].engine
    runners = [device, *([str(engine)] if engine else [])]
    outs = [(out, runner) for out in [_exported(one, work) for one in configs + others] for runner in runners]
    if plugins and engine:
        plugged = [replace(one, plugins=plugins) for one in configs if one.rate]
        outs += [(_exported(config, work), str(engine)) for config in plugged]
    return outs


def _other_forms(config: ExportConfig) -> list[ExportConfig]:
    """A config in every other form of attention, each for the oldest target that supports it."""
    oldest = {Attention.OPERATOR: Target.TENSORRT11}
    return [
        replace(config, target=oldest.get(form, Target.TENSORRT10), attention=form)
        for form in Attention
        if form is not config.form
    ]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text} is not a list of numbers; expected e.g. 1,8") from error


def _require(device: str, engine: Engine | None, plugins: Path | None) -> None:
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device} is unknown; expected cuda or cpu")
    if device == "cpu" and engine:
        raise UserError(f"--engine {engine} runs on a GPU; leave it out with --device cpu")
    if plugins and engine is not Engine.TENSORRT:
        raise UserError(f"--plugins needs --engine {Engine.TENSORRT}; add it")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU; to try the command, give --device cpu --image-size 224")


# Correctness


@dataclass(frozen=True)
class Merged:
    """A merging layer, and its input from photographs.

    Attributes:
        what: name in tables.
        method, windows: its merging method and attention windows.
        x: [B, H, W, C] fp32, the input.
    """

    what: str
    method: StructSAM
    windows: Windows
    x: Tensor

    def types(self, half: bool) -> Iterator[Tensor]:
        """The features in every type to check: fp32, and fp16 if `half`."""
        yield self.x
        if half:
            yield self.x.half()

    @property
    def layer(self) -> Layer:
        """The layer for the kernels."""
        merged = self.method.merged(self.windows)
        return Layer(*self.x.shape, self.windows.side, self.method.cell, merged, self.method.heads)


@torch.no_grad()
def _layers(configs: list[ExportConfig], device: str) -> Iterator[Merged]:
    """One window layer and one global layer of every config that merges, on photographs."""
    sam = pipeline.load(replace(configs[0], random_weights=True))
    encoder, model = sam.image_encoder, model_of(configs[0], sam)
    x = entering(encoder, model, list(read_pictures(None).values())).to(device)
    whole = configs[0].architecture.global_blocks[0]
    for config in configs:
        for kind, block in (("window", 0), ("global", whole)):
            method = config.methods()[block]
            if isinstance(method, StructSAM):
                what = f"{kind} layer at rate {method.rate:g}"
                yield Merged(what, method, windows_of(encoder)[block], x)


def _checked(kernels: TensorKernels, merged: Merged, x: Tensor) -> dict[str, Any]:
    """Compare the kernels with PyTorch on the same device: plans, means, and unmerged sums."""
    layer, windows = merged.layer, merged.windows
    plan = merged.method.plan(x.float(), windows)
    slot, token, _ = kernels.select(layer, *kernels.score(layer, x))
    agreement = (slot == plan.slot).float().mean().item()
    slots = kernels.merge(layer, x, token)
    # With the kernels' own plan, so that every step is checked separately.
    tokens = windows.cut(x.float())
    counted = layer.merged * layer.cell**2
    pooled = tokens.gather(1, token[:, :counted, None].long().expand(-1, -1, layer.channels))
    means = pooled.view(len(token), layer.merged, -1, layer.channels).mean(2)
    error = ((slots[:, : layer.merged].float() - means).abs().max() / means.abs().max()).item()
    flat = slot + torch.arange(len(slot), device=slot.device)[:, None] * layer.slots
    copies = slots.flatten(0, 1)[flat.flatten().long()]
    back = copies[windows.token_of_row(len(x), x.device).long()].view(x.shape)
    exact = torch.equal(kernels.unmerge(layer, slots, slot, x), x + back)
    limit = 2.0 ** (-10 if x.dtype == torch.float16 else -20)
    misses = [
        *([f"plans agree for {agreement:.4%} of the tokens"] if agreement < AGREEMENT else []),
        *([f"means differ by {error:.1e}"] if not error <= limit else []),
        *([] if exact else ["the unmerged sum differs from PyTorch's"]),
    ]
    what = f"kernels, {merged.what}, {'fp16' if x.dtype == torch.float16 else 'fp32'}"
    return {"what": what, "plans": agreement, "error": error, "mask_iou": None, "misses": misses}


def _insist(checks: list[dict[str, Any]]) -> None:
    """Exit with one line for every miss, if there is any: times of wrong results are not comparable."""
    if wrong := [f"{check['what']}: {miss}" for check in checks for miss in check["misses"]]:
        for line in wrong:
            typer.echo(f"failed: {line}", err=True)
        raise typer.Exit(FAILED)


def _exported(config: ExportConfig, work: Path) -> Path:
    """Make an export, which is verified on the CPU."""
    name = f"{config.name}-plugins" if config.plugins else config.name
    return pipeline.export(config, work / name, None, False, Progress()).folder


def _compared(out: Path, runner: str) -> dict[str, Any]:
    """Compare an export on this device with PyTorch."""
    report, misses = compare(out, None, runner, None, Progress())
    return {
        "what": f"{out.name}, {runner}",
        "plans": report.plans,
        "error": report.error,
        "mask_iou": report.mask_iou,
        "misses": misses,
    }


# Times

Contestants = Mapping[str, Callable[[], Runner]]


def _contestants(outs: list[tuple[Path, str]], work: Path, device: str) -> Contestants:
    """Runners of the rivals, the references, then of every export."""
    model = Manifest.read(outs[0][0]).model
    # Compiling for a CPU takes a minute, and says nothing about a GPU.
    chosen = [which for which in RIVALS if device == "cuda" or which is not Rival.COMPILE]
    rivals = {which.label: rival(which, model, work, device) for which in chosen}
    ours = {f"{out.name}, {runner}": partial(create, out, "encoder", runner) for out, runner in outs}
    return {**rivals, **ours}


def _raced(
    contestants: Contestants, image_size: int, batch: int, repeat: int, device: str
) -> Iterator[dict[str, Any]]:
    """Time one batch: pictures are copied from the host, embeddings stay on the device."""
    pictures = np.random.default_rng(0).normal(size=(batch, 3, image_size, image_size))
    feeds: dict[str, Array] = {IMAGE: pictures.astype(np.float32)}
    with ExitStack() as stack:
        runners = {name: stack.enter_context(make()) for name, make in contestants.items()}
        calls = {name: partial(runner.infer_on_device, feeds) for name, runner in runners.items()}
        seconds = interleaved(calls, repeat, f"timing, batch {batch}")
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        taken = footprint(contestants[name], feeds, device == "cuda")
        yield {"name": name, "batch": batch, **spread(times, first), **as_row(taken)}


def _steps(kernels: TensorKernels, merged: Merged, half: bool, repeat: int) -> Iterator[dict[str, Any]]:
    """Time every step of a layer, with PyTorch's operators and with the kernels."""
    layer, windows, x = merged.layer, merged.windows, merged.x
    features = x.half() if half else x
    plan = merged.method.plan(x, windows)
    slot, token, _ = kernels.select(layer, *kernels.score(layer, x))
    slots = kernels.merge(layer, features, token)
    rows, source = windows.rows(len(x), x.device), windows.source(features.flatten(0, 2))
    back = windows.token_of_row(len(x), x.device)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "plan": (
            lambda: merged.method.plan(x, windows),
            lambda: kernels.select(layer, *kernels.score(layer, x)),
        ),
        "merge": (lambda: plan.merge_rows(source, rows), lambda: kernels.merge(layer, features, token)),
        "unmerge": (
            lambda: features + plan.unmerge_rows(slots, back).view(x.shape),
            lambda: kernels.unmerge(layer, slots, slot, features),
        ),
    }
    for step, (ours, kernel) in pairs.items():
        calls = {"PyTorch": partial(_many, ours, x.device), "kernels": partial(_many, kernel, x.device)}
        seconds = interleaved(calls, repeat, f"timing {step}")
        for name, times in seconds.items():
            each = [value / CALLS for value in times]
            first = [value / CALLS for value in seconds["PyTorch"]]
            yield {"layer": merged.what, "step": step, "by": name, **spread(each, first)}


def _many(call: Callable[[], object], device: torch.device) -> None:
    for _ in range(CALLS):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()


# The page


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = result["machine"]
    where = ", ".join([*machine["gpus"], machine["processor"], counted(machine["cores"])])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    head = [
        f"# {', '.join(machine['gpus']) or 'Trial run without a GPU'}",
        f"{result['arch']} at {result['image_size']} pixels in {result['precision']}. {where}; {versions}; "
        f"{machine['date']}. {result['repeat']} interleaved runs, all made by one command: "
        "`python scripts/gpu.py`.",
        f"Clocks: {'; '.join(machine['clocks']) or 'unknown'}",
    ]
    return "\n\n".join([*head, *_check_part(result), *_encoder_part(result), *_kernel_part(result)]) + "\n"


def _check_part(result: dict[str, Any]) -> list[str]:
    rows = [["compared with PyTorch", "same merges", "largest error", "mask IoU"]]
    for check in result["checks"]:
        plans, error, iou = check["plans"], check["error"], check["mask_iou"]
        rows.append(
            [
                check["what"],
                "" if plans is None else f"{plans:.2%}",
                "" if error is None else f"{error:.1e}",
                "" if iou is None else f"{iou:.4f}",
            ]
        )
    return ["## Correctness", markdown(rows)]


def _encoder_part(result: dict[str, Any]) -> list[str]:
    parts = ["## Latency of the encoder", "Pictures are copied from the host, embeddings stay on the device."]
    for batch in sorted({row["batch"] for row in result["encoders"]}):
        rows = [["encoder", f"median ms, batch {batch}", "min to max", "images/s", "of the first", "peak MB"]]
        for row in result["encoders"]:
            if row["batch"] == batch:
                rows.append(
                    [
                        row["name"],
                        f"{1e3 * row['median_s']:.2f}",
                        f"{1e3 * row['min_s']:.2f} to {1e3 * row['max_s']:.2f}",
                        f"{batch / row['median_s']:.1f}",
                        f"{row['ratio_median']:.2f}",
                        _megabytes(row),
                    ]
                )
        parts.append(markdown(rows))
    return parts


def _megabytes(row: dict[str, Any]) -> str:
    """Peak memory in MB: of the GPU if it was measured, else of the process."""
    size = row["peak_host"] if row["peak_device"] is None else row["peak_device"]
    return "" if size is None else f"{size / 1e6:.0f}"


def _kernel_part(result: dict[str, Any]) -> list[str]:
    rows = [["layer", "step", "by", "median µs", "min to max", "of PyTorch"]]
    for row in result["kernels"]:
        times = [1e6 * row[name] for name in ("median_s", "min_s", "max_s")]
        spans = [f"{times[0]:.1f}", f"{times[1]:.1f} to {times[2]:.1f}", f"{row['ratio_median']:.2f}"]
        rows.append([row["layer"], row["step"], row["by"], *spans])
    return ["## Latency of the kernels", f"Three pictures; means of {CALLS} calls.", markdown(rows)]


if __name__ == "__main__":
    run(main)
