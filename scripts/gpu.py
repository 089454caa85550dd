"""Check and time encoders and kernels on one GPU, with one command, in a bounded time.

python scripts/gpu.py -o h100.json --minutes 4
"""

import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import cores, processor
from structsam_runtime.benchmarking.tables import check_result
from structsam_runtime.benchmarking.timing import clocks, versions
from structsam_runtime.cli.console import FAILED, missing, run
from structsam_runtime.predict.predictor import BATCH

try:
    import torch

    from structsam_export.choices import Engine, Precision
    from structsam_export.config import ExportConfig
    from structsam_export.gpu.original import Original
    from structsam_export.gpu.parts import Bench
    from structsam_export.gpu.record import ROOT, Record, without_folders
    from structsam_export.models.architectures import ARCHITECTURES
    from structsam_export.recipe import Uniform
except ModuleNotFoundError as error:
    missing(error)


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the page is written beside it as .md.")
    ],
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = "vit_b",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights; without them they are random.")] = None,
    image_size: Annotated[
        int, typer.Option(help="Side of the input in pixels; 0: the size of the architecture.")
    ] = 0,
    rates: Annotated[str, typer.Option(metavar="LIST", help="Rates of merging.")] = "0,0.35,0.55,0.75",
    batches: Annotated[str, typer.Option(metavar="LIST", help="Images per call.")] = "1,8",
    minutes: Annotated[float, typer.Option(min=0, help="What no longer fits is left out.")] = 4,
    engine: Annotated[
        Engine | None, typer.Option(help="Also build and time engines; needs the library.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try this command without a GPU.")] = "cuda",
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Only parts with this in their names; repeat it, in order."),
    ] = None,
) -> None:
    """Compare kernels and encoders with PyTorch on the CPU, and time them beside Meta's encoder."""
    check_result(output)
    sizes, shares = _numbers("--batches", batches), _numbers("--rates", rates)
    if not all(size in range(1, BATCH + 1) for size in sizes):
        raise UserError(f"--batches {batches} is out of range; expected whole numbers from 1 to {BATCH}")
    _require(device, engine)
    config = ExportConfig.of(
        arch,
        checkpoint=checkpoint,
        random_weights=checkpoint is None,
        image_size=image_size,
        precision=Precision.FP16,
        dynamic_batch=True,
    )
    configs = [replace(config, merging=Uniform(rate_window=rate, rate_global=rate)) for rate in shares]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    head: dict[str, Any] = {
        "machine": _machine(device),
        "commit": _commit(),
        "command": without_folders(shlex.join(["python", "scripts/gpu.py", *sys.argv[1:]])),
        "arch": arch,
        "image_size": config.image_size,
        "weights": "trained weights" if checkpoint else "random weights",
        "repeat": repeat,
        "batches": [int(size) for size in sizes],
    }
    record = Record(output, head, minutes)
    with tempfile.TemporaryDirectory() as folder:
        original = Original(config, device)
        bench = Bench(record, original, configs, head["batches"], repeat, engine, Path(folder))
        bench.run(only or [])
    record.content["machine"]["clocks_at_the_end"] = clocks()
    record.write()
    typer.echo(output.with_suffix(".md").read_text())
    wrong = record.content["misses"] or any(check["misses"] for check in record.content["checks"])
    raise typer.Exit(FAILED if wrong else 0)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text} is not a list of numbers; expected e.g. 1,8") from error


def _require(device: str, engine: Engine | None) -> None:
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device} is unknown; expected cuda or cpu")
    if device == "cpu" and engine:
        raise UserError(f"--engine {engine} runs on a GPU; leave it out with --device cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU; to try the command, give --device cpu --image-size 224")


def _commit() -> str | None:
    """The commit of these sources, with `-dirty` if they were changed; None if Git does not say."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _machine(device: str) -> dict[str, Any]:
    """Date, machine and versions, as far as they can be found."""
    on_gpu = device == "cuda"
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": cores(),
        "gpus": [torch.cuda.get_device_name()] if on_gpu else [],
        "capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "memory": list(torch.cuda.mem_get_info()) if on_gpu else None,  # free and total, bytes
        "clocks": clocks(),
        "versions": versions() | {"CUDA of torch": str(torch.version.cuda)},
    }


if __name__ == "__main__":
    run(main)
