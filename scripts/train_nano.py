"""Train the small SAM that ships with this project, or go on with it.

python scripts/train_nano.py --data ../shared/data/coco-train -o runs/nano --steps 14000 --bfloat16
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.cli.console import missing, run
from structsam_runtime.files import check_output, whole_file

try:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from safetensors.torch import save_file

    from structsam_export.models.checkpoints import read_checkpoint
    from structsam_export.training.curves import plot
    from structsam_export.training.data import Photos, read_photos
    from structsam_export.training.loop import Run, Settings, begin, read, restore, resume, train
    from structsam_export.training.validate import validate
except ModuleNotFoundError as error:
    missing(error)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoints and curves.")],
    data: Annotated[Path, typer.Option(help="Folder in COCO's panoptic layout.")] = Path("data"),
    steps: Annotated[int, typer.Option(min=1, help="Where training ends.")] = 14000,
    resume_run: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Begin with these weights, .safetensors, at --step."),
    ] = None,
    step: Annotated[int, typer.Option(min=0, help="How many steps the weights of --from have had.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ..")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch; default: its own.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw samples.")] = 1,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Faster where the hardware has it; far slower elsewhere.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of weights and samples.")] = 0,
    only_validate: Annotated[bool, typer.Option("--validate", help="Score the run; train nothing.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write its averaged weights, .safetensors in half precision.")
    ] = None,
) -> None:
    """Train; or score or export what was trained."""
    if step and not weights:
        raise UserError(f"--step {step} without --from would skip training; leave it out")
    settings = Settings(output, steps, device, workers, bfloat16, seed, step)
    if threads:
        torch.set_num_threads(threads)
    if export:
        _export(settings, export)
    if only_validate:
        _validate(settings, data)
    if export or only_validate:
        return
    if settings.last.exists() and not resume_run:
        raise UserError(f"{output} already holds a run; add --resume, or give -o another folder")
    photos = read_photos(data)
    output.mkdir(parents=True, exist_ok=True)
    state = resume(settings) if resume_run else begin(settings, _read(weights))
    _train(state, settings, photos)


def _read(weights: Path | None) -> dict[str, torch.Tensor] | None:
    """Weights as `--export` writes them."""
    if weights is None:
        return None
    try:
        return read_checkpoint(weights)
    except UserError as error:
        raise UserError(f"--from {weights} cannot be read; expected a file of --export") from error


def _train(state: Run, settings: Settings, photos: Photos) -> None:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=settings.steps, completed=state.step)

        def told(record: dict[str, Any]) -> None:
            progress.update(task, completed=record["step"])
            if "validation" in record:
                scores = record["validation"]
                console.print(
                    f"step {record['step']:>6}  {record['size']} px  "
                    f"photos {scores['photos']:.3f}  thin {scores['thin']:.3f}"
                )
                plot(settings.curves, settings.curves.with_suffix(".png"))

        train(state, settings, photos, told)


def _validate(settings: Settings, data: Path) -> None:
    saved = read(settings.last)
    size = settings.stage(max(0, saved["step"] - 1)).size
    state = restore(saved, size, settings.device)
    scores = validate(state.average, read_photos(data))
    typer.echo(
        f"step {state.step}, {size} px, mean IoU with box prompts: photographs {scores.photos:.3f} "
        f"({scores.prompts[0]} things), thin {scores.thin:.3f} ({scores.prompts[1]} drawn objects)"
    )


def _export(settings: Settings, path: Path) -> None:
    check_output(path)
    state = restore(read(settings.last), settings.stages[-1].size, "cpu")
    weights = {name: value.half().contiguous() for name, value in state.average.state_dict().items()}
    with whole_file(path) as part:
        save_file(weights, part)


if __name__ == "__main__":
    run(main)
