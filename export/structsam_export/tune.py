"""Tune a checkpoint: model and pictures in, `recipe.json` and `report.html` out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from structsam_runtime.errors import UserError, printable
from structsam_runtime.files import whole_file
from structsam_runtime.pictures import say
from structsam_runtime.progress import Progress

from . import __version__
from .config import ExportConfig
from .description import model_of
from .encoder.decoder import PromptedMaskDecoder
from .pipeline import fetch, load, weights_source
from .recipe import Evidence, Recipe
from .tuning.core import UNIFORM, Tuned, Tuning
from .tuning.goal import Goal, Kind
from .tuning.latency import Latency, Timed
from .tuning.notebook import Notebook
from .tuning.reading import caution, read
from .tuning.report import report, told_times
from .tuning.settings import SETTINGS, UNMERGED, everywhere
from .tuning.shots import shots
from .tuning.stopwatch import timing, written_for

SLACK = 0.02
"""Share of a speedup by which the whole encoder may miss it; as much as times of two runs differ."""
RECIPE, REPORT, MEASURED = "recipe.json", "report.html", "measurements.jsonl"


@dataclass(frozen=True)
class Wanted:
    """What is to be tuned.

    Attributes:
        config: model and weights; its merging is replaced.
        goal: what the recipe is wanted for.
        images: folder of pictures.
        number: of pictures at most.
        prompts: file of boxes; None for a grid.
        device: `cpu` or `cuda`.
        latency: a runner, by whose time settings are priced; None prices them by multiply-accumulates.
    """

    config: ExportConfig
    goal: Goal
    images: Path
    number: int
    prompts: Path | None
    device: str
    latency: str | None = None

    def __post_init__(self) -> None:
        if self.latency is not None and self.goal.kind is Kind.MACS:
            raise UserError("--latency prices settings by time, not by --macs; give --speedup or --budget")


def tune_checkpoint(wanted: Wanted, output: Path, force: bool, progress: Progress) -> str:
    """Find a recipe, and write it with its report.

    Args:
        wanted: what is to be tuned.
        output: folder of both; measurements are kept there too, and a later run reuses them.
        force: replace a recipe and a report that are there.
        progress: shows every step.

    Returns:
        What was found, and what to type next.

    Raises:
        Unmet: no recipe that merges reaches the budget.
        UserError: too few pictures, a goal that no recipe meets, a runner that is not there, or files that
            cannot be read or written.
        BuildError: the runner's library cannot build an engine of a block.
    """
    config, device = wanted.config, _device(wanted.device)
    if wanted.latency:
        config = written_for(config, wanted.latency)
    _check_output(output, force)
    fetch(config)
    with progress.step(f"load {config.arch}"):
        sam = load(config).to(device)
        weights, model = Evidence.named(weights_source(config)), model_of(config, sam)
    with progress.step("read pictures") as notes:
        pictures = read(wanted.images, wanted.number, wanted.prompts, model)
        notes.append(f"{len(pictures)} pictures")
    known = Notebook(output / MEASURED)
    key = json.dumps([config.arch, config.family, config.image_size, weights, __version__])
    decoder = PromptedMaskDecoder(sam).eval().to(device)
    start = partial(Tuning, sam.image_encoder, decoder, pictures, SETTINGS, known, key, uniform=UNIFORM)
    if wanted.latency is None:
        tuning = start()
        found = _found(tuning, wanted.goal, progress)
    else:
        with timing(config, wanted.latency, output, known, key) as latency:
            tuning, found = _found_by_time(start, latency, wanted, progress)
    made = _with_evidence(found, config, weights)
    path = output / RECIPE
    command = replace(config, merging=replace(made, source=path)).command()
    subject = f"{config.arch} at {config.image_size} pixels, {len(pictures)} pictures of {wanted.images.name}"
    with progress.step(f"write {REPORT}"):
        shown = shots(tuning.judge, found.tried_on, found.best)
        _write(output / REPORT, report(found, shown, subject, command, SETTINGS))
        _write(path, json.dumps(made.as_json(), indent=2) + "\n")
    return summary(found, output, command)


def _found(tuning: Tuning, goal: Goal, progress: Progress) -> Tuned:
    """What a search finds; it says before what it takes."""
    tuning.check(goal)
    for line in (caution(tuning.tried_on), _cost(tuning)):
        if line:
            say("note", line)
    with progress.phases("measure and try") as (_, bars):
        bars.start("blocks", None, tuning.passes())
        tuning.passed = _counter(lambda done: bars.advance("blocks", done))
        return tuning.find(goal)


@contextmanager
def _shown(progress: Progress, what: str, latency: Latency) -> Iterator[None]:
    """Show how many of a number of timings are done."""
    with progress.phases(what) as (_, bars):

        def measured(done: int, number: int) -> None:
            if done == 1:
                bars.start(what, None, number)
            bars.advance(what, done)

        latency.measured = measured
        yield


def _found_by_time(
    start: Callable[..., Tuning], latency: Latency, wanted: Wanted, progress: Progress
) -> tuple[Tuning, Tuned]:
    """A search by prices in time, and what it finds, with the time of whole encoders.

    Where the whole encoder misses the speedup by more than `SLACK`, a recipe is searched once more that is
    predicted to take less by as much.
    """
    goal = wanted.goal
    with _shown(progress, f"time blocks on {wanted.latency}", latency):
        tuning = start(pricing=latency.prices)
    found = _timed(_found(tuning, goal, progress), tuning, latency, wanted, progress)
    share = _share(found, goal)
    if share < 1 - SLACK and share * tuning.check(goal) >= tuning.least:
        say("note", f"{share * goal.value:.2f} times as fast, not {goal.value:g}: one more search")
        with progress.step("try again"):
            again = tuning.find(goal, share)
        found = _timed(again, tuning, latency, wanted, progress)
        share = _share(found, goal)
    if share < 1 - SLACK:
        say("note", f"{share * goal.value:.2f} times as fast, not {goal.value:g}; ask for more")
    return tuning, found


def _share(found: Tuned, goal: Goal) -> float:
    """How much of a speedup the whole encoder reaches; 1 for other goals."""
    return found.timed.speedup / goal.value if found.timed and goal.kind is Kind.SPEEDUP else 1.0


def _timed(found: Tuned, tuning: Tuning, latency: Latency, wanted: Wanted, progress: Progress) -> Tuned:
    """A result with the time of the whole encoder, without merging and with the recipe."""
    with _shown(progress, f"time encoders on {wanted.latency}", latency):
        both = [everywhere(UNMERGED, tuning.encoder), found.best.recipe]
        times = latency.whole(tuning.encoder, both)
    return replace(found, timed=Timed(str(wanted.latency), latency.machine, *times))


def _check_output(output: Path, force: bool) -> None:
    """Make the folder of the output.

    Raises:
        UserError: it cannot be made, or has a recipe or a report.
    """
    there = [name for name in (RECIPE, REPORT) if (output / name).exists()]
    if there and not force:
        raise UserError(f"{output} has {' and '.join(there)}; add --force to replace them")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def _device(name: str) -> torch.device:
    """The device of that name, with products in fp32 that is fp32.

    Raises:
        UserError: there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU; leave --device out for the CPU")
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is unknown; expected cpu or cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def _cost(tuning: Tuning) -> str:
    """What will run at most, and how long that takes, by one timed run of the encoder and the decoder."""
    start = time.perf_counter()
    tuning.judge.unmerged(tuning.tried_on[0])
    passes = tuning.passes() / tuning.depth
    minutes = math.ceil(passes * (time.perf_counter() - start) / 60)
    return (
        f"{len(tuning.settings)} settings of {tuning.depth} blocks on {len(tuning.measured)} pictures, then "
        f"whole recipes on {len(tuning.tried_on)} others: {passes:.0f} passes of the encoder at most, about "
        f"{minutes} min; a stopped run goes on where it was"
    )


def _counter(tell: Callable[[int], None]) -> Callable[[int], None]:
    """Tells the sum of all numbers that it is called with."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        tell(done)

    return add


def _with_evidence(found: Tuned, config: ExportConfig, weights: str) -> Recipe:
    """The recipe with what was measured of it."""
    best, agreement = found.best, found.best.agreement
    evidence = Evidence(
        agreement=round(agreement.mean, 6),
        low=round(agreement.low, 6),
        high=round(agreement.high, 6),
        pictures=len(found.tried_on),
        prompts=best.prompts,
        gmac=round(best.macs / 1e9, 4),
        weights=weights,
        image_size=config.image_size,
    )
    return replace(best.recipe, tuned=evidence)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def summary(found: Tuned, output: Path, command: str) -> str:
    """What was found, and what to type next."""
    best, whole, agreement = found.best, found.unmerged_macs / 1e9, found.best.agreement
    return "\n".join(
        [
            f"{printable(str(output / RECIPE))}: {best.macs / 1e9:.2f} GMAC of {whole:.2f} "
            f"({1 - best.macs / 1e9 / whole:.1%} less)",
            *([told_times(found.timed, found)] if found.timed else []),
            f"agreement with the unmerged masks {agreement.mean:.1%} ({agreement.low:.1%} to "
            f"{agreement.high:.1%}) on {len(found.tried_on)} pictures, {best.prompts} prompts",
            f"report: {printable(str(output / REPORT))}",
            f"next: {command}",
        ]
    )
