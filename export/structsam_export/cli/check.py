"""Compare an export with PyTorch on this machine and with the runner that will be used.

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
        Path | None, typer.Option(metavar="DIR", help="Compare on these images. Default: three photographs.")
    ] = None,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The checkpoint, if its file was moved.")
    ] = None,
) -> None:
    """Compare an export with the PyTorch model that it was made from. A miss is exit code 3."""
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
    typer.echo("passed: all thresholds of its precision")
