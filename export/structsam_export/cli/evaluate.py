"""Measure mask quality on a dataset for merging methods and rates; writes the paper's tables and plots.

structsam evaluate --dataset coco-panoptic --root DIR -o results              # PyTorch, all methods
structsam evaluate --dataset held-out --split thin --root DIR -o results --method structsam --ablations
structsam evaluate OUT [OUT ...] --dataset dis5k --root DIR -o results        # exports, on a runner
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.evaluation.datasets import DATASETS, open_dataset
from structsam_runtime.evaluation.results import Results
from structsam_runtime.progress import Progress
from structsam_runtime.runners import RUNNERS

from ..config import ExportConfig
from ..evaluating import evaluate_all, write
from ..merging.registry import METHODS
from ..models.checkpoints import architecture_named
from ..options import Arch, Checkpoint, ImageSize, RandomWeights, WeightsFamily
from ..pipeline import weights_source
from ..subjects import described, in_pytorch, of_exports
from ..variants import ABLATIONS, CHOICES, variants

RATES = (0.35, 0.55)


def main(
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the unpacked dataset.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Results, tables, plots.")],
    outs: Annotated[
        list[Path] | None, typer.Argument(metavar="[OUT]...", help="Exports to evaluate instead of PyTorch.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset. Default: its usual one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first N pictures.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Evaluate only the last N pictures.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable. Default: all. With options: bipartite:reduction=replace."),
    ] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Repeatable. Default: 0.35 and 0.55.")] = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also evaluate Table 4 and single options.")
    ] = False,
    arch: Arch = None,
    checkpoint: Checkpoint = None,
    random_weights: RandomWeights = False,
    family: WeightsFamily = "",
    image_size: ImageSize = 0,
    runner: Annotated[
        str | None, typer.Option(help=f"Runner of exports: {', '.join(RUNNERS)}. Default: cpu.")
    ] = None,
) -> None:
    """Evaluate models with the box of every annotated object as a prompt. A rerun continues a stopped run."""
    if not outs:
        _refuse({"--runner": runner}, "it applies to exports only")
    else:
        merging = {"--method": method, "--rate": rate, "--ablations": ablations}
        model = {
            "--arch": arch,
            "--random-weights": random_weights,
            "--family": family,
            "--image-size": image_size,
        }
        _refuse({**merging, **model}, "the exports define these")
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
    """Raise UserError if options are given that would have no effect."""
    if given := [name for name, value in options.items() if value]:
        raise UserError(f"leave {' and '.join(given)} out: {why}")
