"""Find settings block by block for your checkpoint, pictures and budget; writes a recipe and a report.

structsam tune --images photos --budget 0.95 -o tuned              # vit_nano
structsam tune --checkpoint my_sam.pth --images photos --speedup 2 -o tuned
"""

from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime import UserError
from structsam_runtime.build import BuildError
from structsam_runtime.cli.console import FAILED
from structsam_runtime.progress import Progress
from structsam_runtime.runners import RUNNERS

from ..config import ExportConfig
from ..models.checkpoints import architecture_named
from ..options import Arch, Checkpoint, ImageSize, RandomWeights, WeightsFamily
from ..tune import Wanted, tune_checkpoint
from ..tuning.goal import Goal, Kind
from ..tuning.search import Unmet


def main(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Your pictures; no labels are needed.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="recipe.json, report.html and measurements.")
    ],
    budget: Annotated[
        float | None,
        typer.Option(help="Least agreement with the unmerged masks, such as 0.97: the cheapest recipe."),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(help="Divide the cost, multiply-accumulates or --latency, by this: the best masks."),
    ] = None,
    macs: Annotated[
        float | None, typer.Option(help="At most so many multiply-accumulates, in 10^9: the best masks.")
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="RUNNER",
            help=f"Choose by the time that blocks take here on one of {', '.join(RUNNERS)}, instead of by "
            "multiply-accumulates.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    arch: Arch = None,
    family: WeightsFamily = "",
    random_weights: RandomWeights = False,
    image_size: ImageSize = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Boxes by picture, as for structsam batch. Default: a grid."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=3, help="Pictures to use, spread over the folder.")] = 12,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace recipe.json and report.html.")] = False,
) -> None:
    """Find a recipe for structsam export: what each block merges. Give one of --budget, --speedup and --macs.

    The budget is kept by the lower end of a 95 % interval over pictures that no block was measured on. A
    rerun goes on where a stopped run was, and reuses what was measured for another goal. Exit code 3 where no
    recipe reaches the budget.
    """
    values = {Kind.BUDGET: budget, Kind.SPEEDUP: speedup, Kind.MACS: macs}
    goals = [Goal(kind, value) for kind, value in values.items() if value is not None]
    if len(goals) != 1:
        raise UserError(f"tune got {len(goals)} of --budget, --speedup and --macs; give one of them")
    config = ExportConfig(
        architecture_named(arch, checkpoint), checkpoint, random_weights, family, image_size=image_size
    )
    wanted = Wanted(config, goals[0], images, pictures, prompts, device, latency)
    try:
        told = tune_checkpoint(wanted, output, force, Progress())
    except Unmet as error:
        nearest = error.nearest
        typer.echo(
            f"failed: no recipe that merges reaches --budget {goals[0].value:g}; the nearest has "
            f"{nearest.agreement.low:.4f} at {nearest.told}: lower the budget, or give more pictures",
            err=True,
        )
        raise typer.Exit(FAILED) from error
    except BuildError as error:
        typer.echo(UserError(f"failed: {error}; a rerun goes on where it was"), err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(told)
