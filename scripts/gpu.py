"""Everything that is to be known about one GPU, by one command: is it right there, and how fast.

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
"""Least share of tokens with the same slot: energies differ in their last bits, and so plans in a few."""
CALLS = 20
"""Of a kernel in one timing, which is else shorter than it takes to start it."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its page goes beside it.")
    ],
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = "vit_b",
    image_size: Annotated[
        int, typer.Option(help="Pixels along the side of the input; 0: what the weights were made for.")
    ] = 0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="No download; times are the same.")
    ] = False,
    rates: Annotated[str, typer.Option(metavar="LIST", help="Of tokens removed.")] = "0,0.35,0.55,0.75",
    batches: Annotated[str, typer.Option(metavar="LIST", help="Images in one call.")] = "1,8",
    engine: Annotated[
        Engine | None, typer.Option(help="Build and time engines too; needs its library.")
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(metavar="LIBRARY", help="Build and time engines with plugins too: plugins/README.md."),
    ] = None,
    forms: Annotated[
        bool, typer.Option("--forms", help="Also every form of attention, at the last of the rates.")
    ] = False,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try this command.")] = "cuda",
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 20,
) -> None:
    """Hold kernels and exports against PyTorch on this GPU, and, if they are right, time them and rivals."""
    check_result(output)
    sizes, shares = [int(size) for size in _numbers("--batches", batches)], _numbers("--rates", rates)
    if not all(1 <= size <= BATCH for size in sizes):
        raise UserError(f"--batches {batches} is not within 1 to {BATCH}, which exports are built for")
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
    """The result: kernels and exports are checked, and timed if nothing is wrong.

    Args:
        configs: what is exported, one for every rate.
        others: what is exported too, without a look at its layers.
        plugins: library to build engines with too.
        sizes: images in one call.
        repeat: timed runs of each.
        device: cuda or cpu.
    """
    half = device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kernels = _kernels(device, work)
        layers = list(_layers(configs, device))
        checks = [_checked(kernels, layer, x) for layer in layers for x in layer.types(half)]
        _insist(checks)  # before minutes of exports
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
    """Every export with every runner that it is for."""
    engine = configs[0].engine
    runners = [device, *([str(engine)] if engine else [])]
    outs = [(out, runner) for out in [_exported(one, work) for one in configs + others] for runner in runners]
    if plugins and engine:
        plugged = [replace(one, plugins=plugins) for one in configs if one.rate]
        outs += [(_exported(config, work), str(engine)) for config in plugged]
    return outs


def _other_forms(config: ExportConfig) -> list[ExportConfig]:
    """A config in every form of attention that is not its own, for the oldest target that has it."""
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
        raise UserError(f"{option} {text} is no list of numbers; expected e.g. 1,8") from error


def _require(device: str, engine: Engine | None, plugins: Path | None) -> None:
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device} is unknown; expected cuda or cpu")
    if device == "cpu" and engine:
        raise UserError(f"--engine {engine} runs on a GPU; leave it out with --device cpu")
    if plugins and engine is not Engine.TENSORRT:
        raise UserError(f"--plugins goes with --engine {Engine.TENSORRT} alone; add that")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU here; --device cpu tries the command, at --image-size 224 say")


# Correctness


@dataclass(frozen=True)
class Merged:
    """A layer that merges, and the features of photographs that enter it.

    Attributes:
        what: for tables.
        method, windows: how it merges.
        x: [B, H, W, C] fp32.
    """

    what: str
    method: StructSAM
    windows: Windows
    x: Tensor

    def types(self, half: bool) -> Iterator[Tensor]:
        """The features in every type that is to be looked at."""
        yield self.x
        if half:
            yield self.x.half()

    @property
    def layer(self) -> Layer:
        """As the kernels take it."""
        merged = self.method.merged(self.windows)
        return Layer(*self.x.shape, self.windows.side, self.method.cell, merged, self.method.heads)


@torch.no_grad()
def _layers(configs: list[ExportConfig], device: str) -> Iterator[Merged]:
    """A window block and a global one of every config that merges, on the verification's photographs."""
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
    """The kernels against PyTorch on the same device: plans, means, and the sum that is unmerged."""
    layer, windows = merged.layer, merged.windows
    plan = merged.method.plan(x.float(), windows)
    slot, token, _ = kernels.select(layer, *kernels.score(layer, x))
    agreement = (slot == plan.slot).float().mean().item()
    slots = kernels.merge(layer, x, token)
    # Of the kernels' own plan, so that every step is looked at by itself.
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
        *([f"plans agree in {agreement:.4%} of the tokens"] if agreement < AGREEMENT else []),
        *([f"means differ by {error:.1e}"] if not error <= limit else []),
        *([] if exact else ["the unmerged sum is not PyTorch's"]),
    ]
    what = f"kernels, {merged.what}, {'fp16' if x.dtype == torch.float16 else 'fp32'}"
    return {"what": what, "plans": agreement, "error": error, "mask_iou": None, "misses": misses}


def _insist(checks: list[dict[str, Any]]) -> None:
    """End here, with what is wrong, if anything is: what computes something else has no time to compare."""
    if wrong := [f"{check['what']}: {miss}" for check in checks for miss in check["misses"]]:
        for line in wrong:
            typer.echo(f"failed: {line}", err=True)
        raise typer.Exit(FAILED)


def _exported(config: ExportConfig, work: Path) -> Path:
    """An export, which is verified on the CPU as always."""
    name = f"{config.name}-plugins" if config.plugins else config.name
    return pipeline.export(config, work / name, None, False, Progress()).folder


def _compared(out: Path, runner: str) -> dict[str, Any]:
    """An export on this device against PyTorch."""
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
    """Rivals first, which all are compared with, then every export on its runner."""
    model = Manifest.read(outs[0][0]).model
    # Compiling for a CPU takes a minute, and tells nothing of a GPU.
    chosen = [which for which in RIVALS if device == "cuda" or which is not Rival.COMPILE]
    rivals = {which.label: rival(which, model, work, device) for which in chosen}
    ours = {f"{out.name}, {runner}": partial(create, out, "encoder", runner) for out, runner in outs}
    return {**rivals, **ours}


def _raced(
    contestants: Contestants, image_size: int, batch: int, repeat: int, device: str
) -> Iterator[dict[str, Any]]:
    """Seconds of a batch: pictures come from the host, embeddings stay on the device."""
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
    """Every step of a layer, by PyTorch's operators and by a kernel."""
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
    """As Markdown."""
    machine = result["machine"]
    where = ", ".join([*machine["gpus"], machine["processor"], counted(machine["cores"])])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    head = [
        f"# {', '.join(machine['gpus']) or 'A try without a GPU'}",
        f"{result['arch']} at {result['image_size']} pixels in {result['precision']}. {where}; {versions}; "
        f"{machine['date']}. {result['repeat']} interleaved runs, all of this page by one command: "
        "`python scripts/gpu.py`.",
        f"Clocks: {'; '.join(machine['clocks']) or 'unknown'}",
    ]
    return "\n\n".join([*head, *_check_part(result), *_encoder_part(result), *_kernel_part(result)]) + "\n"


def _check_part(result: dict[str, Any]) -> list[str]:
    rows = [["against PyTorch, here", "same merges", "largest error", "mask IoU"]]
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
    return ["## Is it right", markdown(rows)]


def _encoder_part(result: dict[str, Any]) -> list[str]:
    parts = ["## How fast is the encoder", "Pictures come from the host, embeddings stay on the device."]
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
    """Of the GPU where there is one, else of the host."""
    size = row["peak_host"] if row["peak_device"] is None else row["peak_device"]
    return "" if size is None else f"{size / 1e6:.0f}"


def _kernel_part(result: dict[str, Any]) -> list[str]:
    rows = [["layer", "step", "by", "median µs", "min to max", "of PyTorch"]]
    for row in result["kernels"]:
        times = [1e6 * row[name] for name in ("median_s", "min_s", "max_s")]
        spans = [f"{times[0]:.1f}", f"{times[1]:.1f} to {times[2]:.1f}", f"{row['ratio_median']:.2f}"]
        rows.append([row["layer"], row["step"], row["by"], *spans])
    return ["## How fast are the kernels", f"Three pictures; means of {CALLS} calls.", markdown(rows)]


if __name__ == "__main__":
    run(main)
