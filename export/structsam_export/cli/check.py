"""Compare an export with PyTorch again, on the machine and the runner that will do the work.

structsam check OUT [--images DIR] [--runner cuda]
"""

from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime.cli.console import FAILED
from structsam_runtime.errors import UserError
from structsam_runtime.runners import RUNNERS

from ..check import compare
from ..comparing import NotFiniteError
from ..progress import Progress


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of structsam export.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare on these instead of three photographs.")
    ] = None,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The checkpoint, if it is not where it was.")
    ] = None,
) -> None:
    """Compare an export with the PyTorch model that it was made from, and say whether it passes."""
    try:
        report, misses = compare(out, images, runner, checkpoint, Progress())
    except NotFiniteError as error:
        typer.echo(UserError(f"failed: {error}"), err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(report.table())
    for miss in misses:
        typer.echo(UserError(f"failed: {miss}"), err=True)
    if misses:
        raise typer.Exit(FAILED)
    typer.echo("passes the thresholds of its precision")
