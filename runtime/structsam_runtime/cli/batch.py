"""Segment every picture of a folder: everything in it, or what is in given boxes.

structsam batch IMAGES -o MASKS --model OUT
structsam batch IMAGES -o MASKS --model OUT --prompts boxes.json
structsam batch IMAGES -o MASKS --model OUT --address ray-head:6379      # on many machines
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from .. import UserError
from ..batch import local
from ..batch import ray as cluster
from ..batch.attempts import ATTEMPTS, deaths
from ..batch.job import Job, begin, plan
from ..batch.segment import Outcome, earlier, note_errors
from ..errors import printable
from ..pictures import MAX_PIXELS
from ..runners import RUNNERS
from .console import FAILED, LOWER, given, option

GONE = "its result is no longer there, or the picture has changed since; run again"


def main(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder, with those in it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Results: NAME.json for each picture.")
    ],
    model: Annotated[Path, typer.Option(metavar="OUT", help="Output folder of structsam export.")],
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Load .onnx files that you changed, as by quantisation.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help='{"a.jpg": {"boxes": [[x0, y0, x1, y1], ..]}, ..}; default: everything.'
        ),
    ] = None,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Of the grid that finds everything; default: 32.")
    ] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(max=1, help="Masks of a lower predicted IoU are dropped; default: 0.88.")
    ] = None,
    stability_score_thresh: Annotated[
        float | None, typer.Option(max=1, help="Masks of a lower stability are dropped; default: 0.95.")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Keep embeddings too: NAME.npz, 2 to 4 MB each.")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger pictures fail before they are decoded.")
    ] = MAX_PIXELS,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; local starts one on this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on the cluster; default: one per GPU or machine.")
    ] = None,
) -> None:
    """Write the masks of every picture, as COCO's run lengths, into a file of its own.

    What is done is not done again: call the same command after an interruption. Exit code 3 where pictures
    failed; errors.jsonl beside the results says which, and why. A picture that ends its process is tried
    three times. A box that is wrong fails alone: its number and the reason are in the picture's result, and
    the exit code is 3 too, of every run.
    """
    everything = given(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
    )
    if prompts and everything:
        first = option(next(iter(everything)))
        raise UserError(f"{first} finds everything, --prompts says what to find; drop one of them")
    if workers and not address:
        raise UserError("--workers needs --address; local starts a cluster on this machine")
    job, names = plan(
        images, output, model, runner, prompts, everything, embeddings, not unverified, max_pixels
    )
    begin(job)
    left = [name for name in names if not job.done(name)]
    for name in left:
        if 0 < (died := deaths(job, name)) < ATTEMPTS:
            told = f"{name}: a process died while it worked on it; attempt {died + 1} of {ATTEMPTS}"
            typer.echo(printable(told), err=True)
    outcomes = cluster.run(job, left, address, workers) if address else local.run(job, left)
    looked = _watch(job, names, outcomes, len(left))
    for outcome in looked:
        reason = f"failed: {outcome.image}: {outcome.error}" if outcome.error else None
        typer.echo(printable(reason or f"{outcome.image}: {outcome.missed}"), err=True)
    failed = {outcome.image for outcome in looked if outcome.error}
    segmented = len(set(left) - failed)
    before = len(names) - segmented - len(failed)
    typer.echo(f"{output}: {segmented} pictures segmented, {before} done before, {len(failed)} failed")
    if looked:
        raise typer.Exit(FAILED)


def _watch(
    job: Job, names: Sequence[str], outcomes: Generator[Outcome, None, None], left: int
) -> list[Outcome]:
    """Have the pictures segmented that are left of those of the job.

    Returns:
        Those that failed, which are noted too, and those of which a box failed, now or when they were done;
        sorted by name.
    """
    console = Console(stderr=True)
    looked: dict[str, Outcome] = {}
    empty = 0
    try:
        with closing(outcomes):
            seen = track(
                outcomes if left else (),
                "segmenting",
                left,
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
            for outcome in seen:
                empty += outcome.empty
                if outcome.error or outcome.missed:
                    looked[outcome.image] = outcome
        failed = {outcome.image for outcome in looked.values() if outcome.error}
        for name in names:  # files may have been removed or written meanwhile
            if name in failed:
                continue
            found = job.found(name)
            if found is None:
                looked[name] = Outcome(name, "write", GONE)
            elif (outcome := earlier(job, found)).missed:
                looked[name] = outcome
    finally:
        if empty:
            typer.echo(f"pictures without masks: {empty}; {LOWER}, in another folder of results", err=True)
        told = [looked[name] for name in sorted(looked)]
        note_errors(job, told)
    return told
