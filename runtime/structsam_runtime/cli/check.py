"""Check an export on this machine: with the answers of PyTorch that it holds, or with PyTorch itself.

structsam check OUT [--runner cuda]
structsam check OUT --against pytorch [--checkpoint PATH] [--images DIR]
"""

import importlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..check import Measured, check, held, worst
from ..errors import NotFiniteError, UserError, printable
from ..manifest import Manifest
from ..predict.predictor import Predictor
from ..reference import Reference
from ..runners import RUNNERS, kind_of
from ..thresholds import Thresholds, misses
from .console import FAILED, missing


class Against(str, Enum):
    """What an export is compared with."""

    REFERENCE = "reference"
    PYTORCH = "pytorch"


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of structsam export.")],
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    against: Annotated[
        Against,
        typer.Option(help="PyTorch's answers in the export, or PyTorch itself, which must be installed."),
    ] = Against.REFERENCE,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="With PyTorch: the checkpoint, if its file was moved.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With PyTorch: your own images. Default: three photographs."),
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Load .onnx files that you changed, as by quantisation.")
    ] = False,
) -> None:
    """Compare what a runner computes here with PyTorch, by the thresholds of the precision.

    A miss is exit code 3.
    """
    try:
        if against is Against.PYTORCH:
            lines = _with_pytorch(out, images, runner, checkpoint, not unverified)
        else:
            given = {"--checkpoint": checkpoint, "--images": images}
            if alone := [option for option, value in given.items() if value is not None]:
                raise UserError(f"{' and '.join(alone)} without --against pytorch has no effect; add it")
            lines = _with_reference(out, runner, not unverified)
    except NotFiniteError as error:
        lines = [str(error)]
    for line in lines:
        typer.echo(UserError(f"failed: {line}"), err=True)
    if lines:
        raise typer.Exit(FAILED)
    typer.echo("passed: all thresholds of its precision")


def _with_pytorch(
    out: Path, images: Path | None, runner: str, checkpoint: Path | None, verified: bool
) -> list[str]:
    """Print what the export side measures; returns a line for every miss."""
    try:  # imported by name: the runtime does not depend on modules that need PyTorch
        found = importlib.import_module("structsam_export.check")
    except ModuleNotFoundError as error:
        missing(error, "structsam check --against pytorch")
    report, lines = found.compare(out, images, runner, checkpoint, found.Progress(), verified)
    typer.echo(report.table())
    return list(lines)


def _with_reference(out: Path, runner: str, verified: bool) -> list[str]:
    """Print the table row by row, as pictures are done; returns a line for every miss."""
    kind_of(runner)  # an unknown runner is reported first
    manifest = Manifest.read(out)
    reference = Reference.load(out, manifest)
    width = max(len(printable(answer.name)) for answer in reference.answers)
    measured: list[Measured] = []
    with Predictor.load(out, runner, verified=verified) as predictor:
        typer.echo(printable(f"{manifest.name} on {runner}, compared with {reference.made_by}"))
        _echo(width, TITLES)
        for one in check(predictor, reference):
            measured.append(one)
            _echo(width, _cells(one))
    _echo(width, _cells(worst(measured)))
    _echo(width, _limits(reference.limits))
    return misses(held(measured, reference.limits).values(), manifest.model.precision)


TITLES = ("picture", "embedding error", "cosine", "mask IoU", "lowest", "decoder IoU", "predicted IoU error")
"""Of the columns; the last two are of the decoder alone, with PyTorch's embedding."""


def _echo(width: int, cells: Sequence[str]) -> None:
    """Print a row; the first column has a width, and at least that of its title."""
    first, *others = cells
    columns = [f"{cell:>{max(len(title), 10)}}" for cell, title in zip(others, TITLES[1:], strict=True)]
    typer.echo("  ".join([first.ljust(max(width, len(TITLES[0]))), *columns]))


def _cells(one: Measured) -> list[str]:
    ious = (one.mask_iou, one.mask_iou_min, one.decoder_iou)
    return [
        printable(one.name),
        f"{one.error:.2e}",
        f"{one.cosine:.7f}",
        *(f"{iou:.4f}" for iou in ious),
        f"{one.predicted_iou:.2e}",
    ]


def _limits(limits: Thresholds) -> list[str]:
    """Limits under their columns: of every picture, of the mean over all, or of the least value of all."""

    def cell(limit: float | None, how: str = "") -> str:
        return "n/a" if limit is None else f"{how}{limit:g}"

    error = cell(limits.error) if limits.least_error is None else cell(limits.least_error, "least ")
    return [
        "limit",
        error,
        cell(limits.cosine_end_to_end),
        cell(limits.mask_iou, "mean "),
        "n/a",
        cell(limits.decoder_iou, "mean "),
        cell(limits.predicted_iou),
    ]
