"""Measure what merging costs in masks: a dataset, every method, every rate; the paper's tables and plots.

structsam evaluate --dataset coco-panoptic --root DIR -o results              # PyTorch, all methods
structsam evaluate --dataset thin --root DIR -o results --method structsam --ablations
structsam evaluate OUT [OUT ...] --dataset dis5k --root DIR -o results        # exports, as they run
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.evaluation.datasets import DATASETS, open_dataset
from structsam_runtime.evaluation.results import Results
from structsam_runtime.runners import RUNNERS

from ..config import ExportConfig
from ..evaluating import evaluate_all, write
from ..merging.registry import METHODS
from ..models.architectures import ARCHITECTURES, DEFAULT
from ..models.checkpoints import architecture_named
from ..models.family import FAMILIES
from ..pipeline import weights_source
from ..progress import Progress
from ..subjects import described, in_pytorch, of_exports
from ..variants import ABLATIONS, CHOICES, variants

RATES = (0.35, 0.55)


def main(
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the dataset was unpacked.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Results, tables, plots.")],
    outs: Annotated[
        list[Path] | None, typer.Argument(metavar="[OUT]...", help="Exports to evaluate instead of PyTorch.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the dataset; default: its usual one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures, from the first.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many pictures, to the last.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; default: all. With options: bipartite:reduction=replace."),
    ] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Repeatable; default: 0.35 and 0.55.")] = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Those of Table 4, and every other choice, too.")
    ] = False,
    arch: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(ARCHITECTURES)}; default: the checkpoint's, else {DEFAULT}."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your own. Default: Meta's, downloaded.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights: only to see it run.")
    ] = False,
    family: Annotated[
        str, typer.Option(help=f"What weights were trained as: {' or '.join(FAMILIES)}; default: sam.")
    ] = "",
    image_size: Annotated[
        int, typer.Option(help="Pixels along the side of the input; 0 is the architecture's own.")
    ] = 0,
    runner: Annotated[
        str | None, typer.Option(help=f"Of exports; default: cpu. One of {', '.join(RUNNERS)}.")
    ] = None,
) -> None:
    """Evaluate models with the box of every annotated object as a prompt; a stopped run goes on."""
    if not outs:
        _refuse({"--runner": runner}, "only exports have one")
    else:
        merging = {"--method": method, "--rate": rate, "--ablations": ablations}
        model = {
            "--arch": arch,
            "--random-weights": random_weights,
            "--family": family,
            "--image-size": image_size,
        }
        _refuse({**merging, **model}, "exports have their own")
    if limit and last:
        raise UserError("--limit and --last exclude each other; give one of them")
    found = open_dataset(dataset, root, split)
    if outs:
        what, subjects = of_exports(outs, runner or "cpu", checkpoint, Progress())
    else:
        config = ExportConfig(
            architecture_named(arch, checkpoint), checkpoint, random_weights, family, image_size=image_size
        )
        specs = [*(method or METHODS), *([*ABLATIONS, *CHOICES] if ablations else [])]
        subjects = in_pytorch(config, variants(config, specs, rate or RATES), Progress())
        what = described(config, weights_source(config))
    what |= {"machine": machine()}
    results = Results(output / f"{found.name}-{found.split}")
    results.begin([one.name for one in found], what, {one.name: one.facts for one in subjects})
    chosen = found.pictures[-last:] if last else found.pictures[:limit]
    evaluate_all(subjects, dataclasses.replace(found, pictures=chosen), results)
    typer.echo(write(output, what, results))


def _refuse(options: dict[str, object], why: str) -> None:
    """Refuse options that would do nothing."""
    if given := [name for name, value in options.items() if value]:
        raise UserError(f"leave {' and '.join(given)} out: {why}")
