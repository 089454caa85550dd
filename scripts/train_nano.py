"""Train the small SAM that ships with this project, or go on with it.

python scripts/train_nano.py --data ../shared/data -o runs/nano --minutes 9 --device cuda
python scripts/train_nano.py --data ../shared/data -o runs/nano --minutes 100 --bfloat16 --threads 1
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.cli.console import missing, run
from structsam_runtime.files import check_output, whole_file

try:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from safetensors.torch import save_file

    from structsam_export.models.checkpoints import read_checkpoint
    from structsam_export.training.curves import plot
    from structsam_export.training.loop import Run, begin, read, restore, resume, train
    from structsam_export.training.photos import Photos, read_data
    from structsam_export.training.schedule import Settings
    from structsam_export.training.validate import Score, validate
except ModuleNotFoundError as error:
    missing(error)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoints and curves.")],
    data: Annotated[Path, typer.Option(help="Folder that holds coco-train and train.")] = Path("data"),
    steps: Annotated[int | None, typer.Option(min=1, help="Train so many steps in all.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Train so long in all, whatever that is in steps.")
    ] = None,
    resume_run: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Begin with these weights, such as those that ship."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ..")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch; default: its own.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that draw samples; default: none, on a GPU most processors."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a step at 224 pixels; default: 8, on a GPU 64.")
    ] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option(help="Faster where the hardware has it; far slower elsewhere. Default: on a GPU."),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the encoder. Default: on a GPU.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and samples.")] = 0,
    only_validate: Annotated[bool, typer.Option("--validate", help="Score the run; train nothing.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write its averaged weights, .safetensors in half precision.")
    ] = None,
) -> None:
    """Train; or score or export what was trained."""
    trains = not (export or only_validate)
    if trains and (steps is None) == (minutes is None):
        raise UserError("a run ends by --steps or by --minutes; give one of them")
    fast = torch.device(device).type != "cpu"
    settings = Settings(
        output,
        steps,
        minutes,
        device,
        workers=(max(1, (os.cpu_count() or 1) - 2) if fast else 0) if workers is None else workers,
        bfloat16=fast if bfloat16 is None else bfloat16,
        compiled=fast if compiled is None else compiled,
        batch=batch or (64 if fast else 8),
        seed=seed,
    )
    if threads:
        torch.set_num_threads(threads)
    if export:
        _export(settings, export)
    if only_validate:
        _validate(settings, data)
    if not trains:
        return
    if settings.last.exists() and not resume_run:
        raise UserError(f"{output} already holds a run; add --resume, or give -o another folder")
    photos = read_data(data)
    output.mkdir(parents=True, exist_ok=True)
    state = resume(settings) if resume_run else begin(settings, _read(weights))
    _train(state, settings, photos)


def _read(weights: Path | None) -> dict[str, torch.Tensor] | None:
    """Weights of a SAM, if there are any to begin with."""
    return None if weights is None else read_checkpoint(weights)


def _train(state: Run, settings: Settings, photos: Photos) -> None:
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:.1f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=1.0)

        def told(record: dict[str, Any]) -> None:
            progress.update(task, completed=settings.progress(record["step"], record["seconds"]))
            if "validation" in record:
                scores = {source: Score(**score) for source, score in record["validation"].items()}
                console.print(f"step {record['step']}, {record['seconds'] / 60:.1f} min, {record['size']} px")
                console.print(_table(scores), soft_wrap=True)
                plot(settings.curves, settings.curves.with_suffix(".png"))

        train(state, settings, photos, told)


def _table(scores: dict[str, Score]) -> str:
    rows = [f"{'source':16} {'box':>6} {'click':>6} {'error':>6} {'objects':>7}"]
    rows += [
        f"{source:16} {x.box:6.3f} {x.click:6.3f} {x.error:6.3f} {x.objects:7}"
        for source, x in scores.items()
    ]
    return "\n".join(rows)


def _validate(settings: Settings, data: Path) -> None:
    saved = read(settings.last)
    state = restore(saved, settings.arch, saved["size"], settings.device)
    typer.echo(f"step {state.step}, {saved['size']} px: mean IoU by box and by click, error of predicted IoU")
    typer.echo(_table(validate(state.average, read_data(data))))


def _export(settings: Settings, path: Path) -> None:
    check_output(path)
    size = settings.arch.image_size
    average = restore(read(settings.last), settings.arch, size, "cpu").average
    weights = {name: value.half().contiguous() for name, value in average.state_dict().items()}
    with whole_file(path) as part:
        save_file(weights, part)


if __name__ == "__main__":
    run(main)
