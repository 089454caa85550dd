"""Segment every picture of a folder: everything in it, or what is in given boxes.

structsam batch IMAGES -o MASKS --model OUT
structsam batch IMAGES -o MASKS --model OUT --prompts boxes.json
structsam batch IMAGES -o MASKS --model OUT --address ray-head:6379      # on many machines
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from .. import UserError
from ..batch import ray as cluster
from ..batch import segment as batch
from ..batch.job import begin, plan
from ..errors import printable
from ..runners import RUNNERS
from .console import FAILED


def main(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder, with those in it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Results: NAME.json for each picture.")
    ],
    model: Annotated[Path, typer.Option(metavar="OUT", help="Output folder of structsam export.")],
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help='{"a.jpg": {"boxes": [[x0, y0, x1, y1], ..]}, ..}; default: everything.'
        ),
    ] = None,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Of the grid that finds everything; default: 32.")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Keep embeddings too: NAME.npz, 4 MB each.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; local starts one on this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on the cluster; default: one per GPU or machine.")
    ] = None,
) -> None:
    """Write the masks of every picture, as COCO's run lengths, into a file of its own.

    What is done is not done again: call the same command after an interruption. Exit code 3 where pictures
    could not be segmented; errors.jsonl beside the results says which, and why. A box that is wrong fails
    alone: its number and the reason are in the picture's result, and the exit code is 3 too.
    """
    if prompts and points_per_side:
        raise UserError("--points-per-side finds everything, --prompts says what to find; drop one of them")
    if workers and not address:
        raise UserError("--workers needs --address; local starts a cluster on this machine")
    job, names = plan(images, output, model, runner, prompts, points_per_side or 32, embeddings)
    begin(job)
    left = [name for name in names if not job.result(name).exists()]
    outcomes = cluster.run(job, left, address, workers) if address else batch.run(job, left)
    console = Console(stderr=True)
    seen = track(
        outcomes if left else (),
        "segmenting",
        len(left),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    looked = [outcome for outcome in seen if outcome.error or outcome.missed]
    failed = [outcome for outcome in looked if outcome.error]
    batch.note_errors(job, failed)
    for outcome in looked:
        reason = f"failed: {outcome.image}: {outcome.error}" if outcome.error else None
        typer.echo(printable(reason or f"{outcome.image}: {outcome.missed}"), err=True)
    typer.echo(
        f"{output}: {len(left) - len(failed)} pictures segmented, {len(names) - len(left)} were, "
        f"{len(failed)} failed"
    )
    if looked:
        raise typer.Exit(FAILED)
