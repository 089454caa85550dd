"""Measure what `structsam tune` finds: on pictures it never saw, beside uniform settings, over random splits.

python scripts/held_out.py --data ../shared/data -o held-out
python scripts/tuning.py --root held-out -o benchmarks/tuning/vit_nano.json
python scripts/tuning.py --root held-out -o benchmarks/tuning/vit_nano.json --only times --runner openvino

A stopped run goes on where it was.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.cli.console import missing, run
from structsam_runtime.files import whole_file
from structsam_runtime.manifest import Model
from structsam_runtime.runners import kind_of

try:
    from structsam_export.config import ExportConfig
    from structsam_export.description import model_of
    from structsam_export.encoder.decoder import PromptedMaskDecoder
    from structsam_export.merging.registry import MethodSpec
    from structsam_export.pipeline import load, weights_source
    from structsam_export.recipe import BlockRecipe, Evidence, Recipe
    from structsam_export.tuning.asking import Picture
    from structsam_export.tuning.core import Tuning
    from structsam_export.tuning.goal import Goal, Kind
    from structsam_export.tuning.latency import TURNS
    from structsam_export.tuning.notebook import Notebook
    from structsam_export.tuning.reading import read
    from structsam_export.tuning.search import Unmet
    from structsam_export.tuning.settings import (
        METHOD,
        MS,
        SETTINGS,
        UNMERGED,
        Prices,
        everywhere,
        prices,
        settings_of,
    )
    from structsam_export.tuning.stopwatch import timing, written_for
    from structsam_export.tuning.trying import Tried
except ModuleNotFoundError as error:
    missing(error)

BUDGETS = (0.98, 0.95, 0.9)
TUNED_ON, UNSEEN = 24, 12
"""Pictures that tune gets, and pictures of the rest on which recipes are compared."""
STEP, MOST = 10, 70
"""Percent between two rates of a rival at first, and the highest."""
RIVALS = (("structsam", False), ("adjacent", False), ("adjacent", True), ("tomesd", False))
"""Methods, and whether their MLP runs on slots: one rate for all blocks."""
SPLITS, SPLIT_ON, SPLIT_POOL = 20, 9, 40
"""Random splits, pictures that tune gets in each, and pictures that are split."""
SPLIT_BUDGET = 0.95
OTHERS = (
    "adjacent:reduction=replace",
    "structsam",
    "structsam:flatness=cosine",
    "hybrid",
    "tomesd",
    "bipartite",
)
"""Methods that could be settings of a block too."""
TIMES = ("least", "median", "most")
OTHER_RATES, OTHERS_ON = (0.3, 0.6), 4
"""Their rates, each with and without the MLP, and the pictures that they are measured on."""


@dataclass
class Bench:
    """vit_nano, a pool of pictures, and what was measured.

    Attributes:
        encoder, decoder: of the model.
        pool: all pictures.
        notebook: keeps every measurement.
        model: tells the model from others.
        output: the result; recipes are written beside it.
        config: of the model.
        runners: what encoders are timed on.
        content: of the result so far.
    """

    encoder: Any
    decoder: Any
    pool: list[Picture]
    notebook: Notebook
    model: str
    output: Path
    config: ExportConfig
    runners: list[str]
    content: dict[str, Any]

    def tuning(self, pictures: Sequence[Picture]) -> Tuning:
        """A search on some pictures."""
        return Tuning(self.encoder, self.decoder, pictures, SETTINGS, self.notebook, self.model)

    def tried(self, pictures: Sequence[Picture], recipe: Recipe, macs: int) -> Tried:
        """A recipe on pictures."""
        tuning = self.tuning(pictures)
        tuning.tried_on = list(pictures)
        return tuning.attempt(recipe, recipe.name, macs, None)

    def prices(self, settings: Sequence[BlockRecipe]) -> Prices:
        """Costs of settings."""
        return prices(self.encoder, settings)

    def uniform(self, setting: BlockRecipe) -> Tried:
        """One setting in all blocks, on the unseen pictures."""
        table = self.prices([setting])
        recipe = everywhere(setting, self.encoder)
        return self.tried(self.unseen, recipe, int(table.stem + table.merged.sum()))

    @cached_property
    def unseen(self) -> list[Picture]:
        """Pictures that the search of `budgets` never saw."""
        rest = [one for one in self.pool if one not in self.seen]
        return spaced(rest, UNSEEN)

    @cached_property
    def seen(self) -> list[Picture]:
        """Pictures that it gets."""
        return spaced(self.pool, TUNED_ON)


def spaced(pictures: Sequence[Picture], number: int) -> list[Picture]:
    """So many pictures, evenly spaced."""
    places = np.linspace(0, len(pictures) - 1, min(number, len(pictures))).round().astype(int)
    return [pictures[place] for place in places]


def budgets(bench: Bench) -> Iterator[dict[str, Any]]:
    """For every budget the recipe, its agreement on pictures that tune never saw, and rivals with as much."""
    for budget in BUDGETS:
        row: dict[str, Any] = {"budget": budget, "recipe": None, "rivals": []}
        try:
            found = bench.tuning(bench.seen).find(Goal(Kind.BUDGET, budget))
        except Unmet as unmet:
            yield row | {"nearest": asdict(unmet.nearest.agreement)}
            continue
        best = bench.tried(bench.unseen, found.best.recipe, found.best.macs)
        row |= {
            "recipe": found.best.recipe.as_json(),
            "gmac": found.best.macs / 1e9,
            "unmerged_gmac": found.prices.whole / 1e9,
            "tried_on": asdict(found.best.agreement),
            "unseen": asdict(best.agreement),
        }
        with whole_file(bench.output.with_name(f"{bench.output.stem}-{found.best.recipe.name}.json")) as part:
            part.write_text(json.dumps(found.best.recipe.as_json(), indent=2) + "\n", encoding="utf-8")
        for method, mlp in RIVALS:
            row["rivals"].append(rival(bench, method, mlp, best.agreement.mean))
        yield row


def rival(bench: Bench, method: str, mlp: bool, least: float) -> dict[str, Any]:
    """The cost at which one rate for all blocks agrees so well on the unseen pictures.

    Rates are searched in steps of `STEP` percent; then the interpolated one is measured too, and agreement
    and cost are interpolated between it and its neighbour.
    """
    whole = bench.prices([]).whole
    found = {0: bench.tried(bench.unseen[:3], everywhere(UNMERGED, bench.encoder), whole)}

    def keeps(percent: int) -> bool:
        if percent not in found:
            found[percent] = bench.uniform(BlockRecipe(MethodSpec(method), percent / 100, mlp))
        return found[percent].agreement.mean >= least

    low, high = 0, MOST
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (middle, high) if keeps(middle) else (low, middle)
    keeps(high)
    middle = round(between(found[high], found[low], least, high, low))
    if low < middle < high:
        low, high = (middle, high) if keeps(middle) else (low, middle)
    gmac = between(found[high], found[low], least, found[high].macs / 1e9, found[low].macs / 1e9)
    rate = between(found[high], found[low], least, high / 100, low / 100)
    return {"method": method, "merge_mlp": mlp, "rate": round(rate, 3), "gmac": gmac}


def between(worse: Tried, better: Tried, least: float, first: float, second: float) -> float:
    """A value of two recipes, interpolated to an agreement between theirs."""
    return float(np.interp(least, [worse.agreement.mean, better.agreement.mean], [first, second]))


def splits(bench: Bench) -> Iterator[dict[str, Any]]:
    """For random splits of the pool: whether the recipe keeps its budget on pictures that tune never saw."""
    pool = spaced(bench.pool, SPLIT_POOL)
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(pool))
        seen, unseen = (
            [pool[index] for index in some] for some in (order[:SPLIT_ON], order[SPLIT_ON:][:UNSEEN])
        )
        row: dict[str, Any] = dict.fromkeys(("gmac", "tried_on", "unseen", "kept")) | {"seed": seed}
        try:
            best = bench.tuning(seen).find(Goal(Kind.BUDGET, SPLIT_BUDGET)).best
        except Unmet:
            yield row
            continue
        there = bench.tried(unseen, best.recipe, best.macs).agreement
        yield row | {
            "gmac": best.macs / 1e9,
            "tried_on": asdict(best.agreement),
            "unseen": asdict(there),
            "kept": there.mean >= SPLIT_BUDGET,
        }


def methods(bench: Bench) -> Iterator[dict[str, Any]]:
    """Errors of single blocks with other methods, in multiples of those with the method of `SETTINGS`."""
    names = [METHOD, *map(MethodSpec.parse, OTHERS)]
    settings = [setting for method in names for setting in settings_of(method, OTHER_RATES)]
    tuning = Tuning(
        bench.encoder, None, spaced(bench.pool, 3 * OTHERS_ON), settings, bench.notebook, bench.model
    )
    errors = tuning.errors().reshape(tuning.depth, len(names), -1)
    for index, method in enumerate(names[1:], 1):
        ratio = errors[:, index] / errors[:, 0]
        ends = {"least": ratio.min(), "median": np.median(ratio), "most": ratio.max()}
        yield {"method": str(method)} | {name: float(value) for name, value in ends.items()}


def times(bench: Bench) -> Iterator[dict[str, Any]]:
    """What every encoder of `budgets` takes on each runner, and what times of single blocks predict."""
    found = list(encoders(bench))
    recipes = [recipe for _, _, recipe in found]
    settings = list(dict.fromkeys(block for recipe in recipes for block in recipe.blocks if block.merges))
    for runner in bench.runners:
        config, folder = written_for(bench.config, runner), bench.output.resolve().parent
        with timing(config, runner, folder, bench.notebook, bench.model) as latency:
            table = latency.prices(bench.encoder, settings)
            measured = latency.whole(bench.encoder, recipes)
        for (budget, name, recipe), time in zip(found, measured, strict=True):
            columns = [1 + settings.index(block) if block.merges else 0 for block in recipe.blocks]
            yield {
                "runner": runner,
                "library": kind_of(runner).library(runner),
                "budget": budget,
                "encoder": name,
                "measured_ms": time / MS.size,
                "predicted_ms": table.of(columns) / MS.size,
            }


def encoders(bench: Bench) -> Iterator[tuple[float | None, str, Recipe]]:
    """Budget, name and recipe of the unmerged encoder, and of every encoder that `budgets` found."""
    yield None, "unmerged", everywhere(UNMERGED, bench.encoder)
    for one in bench.content["budgets"]:
        if one["recipe"] is None:
            continue
        yield one["budget"], "tuned", Recipe.from_json(one["recipe"], str(bench.output))
        for other in one["rivals"]:
            setting = BlockRecipe(MethodSpec(other["method"]), other["rate"], other["merge_mlp"])
            yield one["budget"], rival_name(other), everywhere(setting, bench.encoder)


def told(interval: dict[str, float] | None) -> str:
    """A mean with its interval, in %."""
    if interval is None:
        return "n/a"
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def table(content: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = [
        f"# structsam tune on vit_nano at {content['image_size']} pixels",
        f"Weights: {content['weights'][:12]}. {content['machine']}. {content['pool']} pictures that vit_nano "
        "was not trained on, with a grid of 9 boxes and 9 points each. In brackets: 95 % interval over "
        "pictures.",
    ]
    if content["budgets"]:
        parts += [
            f"Tune gets {TUNED_ON} pictures, and recipes are compared on {UNSEEN} others. Below each recipe, "
            "for each method, the one rate for all blocks that agrees as well on these, interpolated between "
            "two rates:",
            markdown(list(budget_rows(content["budgets"]))),
        ]
    if kept := [one["kept"] for one in content["splits"]]:
        parts += [
            f"With --budget {SPLIT_BUDGET:g} on {SPLIT_ON} random pictures, the agreement on {UNSEEN} others "
            f"is within the budget in {kept.count(True)} of {len(kept)} splits:",
            markdown(list(split_rows(content["splits"]))),
        ]
    if content["methods"]:
        rows = [[one["method"], *(f"{one[name]:.1f}" for name in TIMES)] for one in content["methods"]]
        parts += [
            f"Error of the embedding with one block merged, in multiples of the error with {METHOD}, over "
            f"all blocks, rates {' and '.join(map(str, OTHER_RATES))}, with and without the MLP, "
            f"on {OTHERS_ON} pictures:",
            markdown([["method", *TIMES], *rows]),
        ]
    for runner in dict.fromkeys(one["runner"] for one in content["times"]):
        parts += timed([one for one in content["times"] if one["runner"] == runner])
    return "\n\n".join(parts) + "\n"


def timed(found: Sequence[dict[str, Any]]) -> list[str]:
    """What encoders take on one runner: the unmerged one first."""
    unmerged = found[0]
    measured, predicted = (
        [one[name] / unmerged[name] for one in found] for name in ("measured_ms", "predicted_ms")
    )
    ratios = [share / expected for share, expected in zip(measured, predicted, strict=True)]
    rows = [["budget", "encoder", "ms", "of unmerged", "predicted, ms", "of unmerged"]]
    for one in found:
        budget = "" if one["budget"] is None else f"{one['budget']:g}"
        shares = [
            (f"{one[name]:.1f}", f"{one[name] / unmerged[name]:.0%}")
            for name in ("measured_ms", "predicted_ms")
        ]
        rows.append([budget, one["encoder"], *itertools.chain(*shares)])
    return [
        f"Time of the same encoders in fp32 on {unmerged['library']} ({unmerged['runner']}), medians of "
        f"{TURNS} measurements in turns, and what `--latency` predicts from single blocks. Their shares of "
        f"the unmerged encoder's time are {min(ratios):.2f} to {max(ratios):.2f} times the predicted ones:",
        markdown(rows),
    ]


def budget_rows(found: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each recipe, and for each of its rivals."""
    yield ["budget", "encoder", "GMAC", "of unmerged", "agreement on unseen pictures, %"]
    for one in found:
        if one["recipe"] is None:
            yield [f"{one['budget']:g}", "no recipe", "n/a", "n/a", "n/a"]
            continue
        whole = one["unmerged_gmac"]
        yield [f"{one['budget']:g}", "tuned", *cost(one["gmac"], whole), told(one["unseen"])]
        for other in one["rivals"]:
            yield ["", rival_name(other), *cost(other["gmac"], whole), "the same"]


def rival_name(rival: dict[str, Any]) -> str:
    """Method and rate of a rival."""
    mlp = ", MLP merged" if rival["merge_mlp"] else ""
    return f"{rival['method']}{mlp}, rate {rival['rate']:.2f}"


def cost(gmac: float | None, whole: float) -> list[str]:
    """Multiply-accumulates, and their share of the unmerged encoder's."""
    return ["n/a", "n/a"] if gmac is None else [f"{gmac:.2f}", f"{gmac / whole:.0%}"]


def split_rows(found: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each split."""
    yield ["split", "GMAC", "agreement on pictures tried on, %", "on unseen pictures, %", "kept"]
    for one in found:
        gmac = f"{one['gmac']:.2f}" if one["gmac"] else "n/a"
        kept = {True: "yes", False: "no", None: "no recipe"}[one["kept"]]
        yield [str(one["seed"]), gmac, told(one["tried_on"]), told(one["unseen"]), kept]


def main(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder made by held_out.py.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
    measured: Annotated[
        Path, typer.Option(metavar="FILE", help="Keeps single measurements, for runs that go on.")
    ] = Path("tuning.jsonl"),
    image_size: Annotated[
        int, typer.Option(help="Side of the input in pixels; smaller is faster. 0: that of vit_nano.")
    ] = 0,
    only: Annotated[str, typer.Option(help="budgets, splits, methods or times; default: all.")] = "",
    runner: Annotated[
        list[str] | None, typer.Option(help="What encoders are timed on; again for more. Default: cpu.")
    ] = None,
) -> None:
    """Tune vit_nano for several budgets and over random splits of pictures that it was not trained on.

    times needs what budgets found, and a machine that does nothing else.
    """
    check_result(output)
    config = ExportConfig("vit_nano", image_size=image_size)
    for name in runner or ():
        written_for(config, name)  # refuses those that are not here
    sam = load(config)
    model: Model = model_of(config, sam)
    pool = [
        picture
        for split in ("photographs", "salient")
        for picture in read(root / split / "images", 1000, None, model)
    ]
    weights = Evidence.named(weights_source(config))
    known = f"{weights} {config.image_size}" if image_size else weights
    decoder, notes = PromptedMaskDecoder(sam).eval(), Notebook(measured)
    content: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    content |= {"weights": weights, "machine": machine(), "pool": len(pool), "image_size": config.image_size}
    parts = {"budgets": budgets, "splits": splits, "methods": methods, "times": times}
    content = {name: [] for name in parts} | content
    bench = Bench(sam.image_encoder, decoder, pool, notes, known, output, config, runner or ["cpu"], content)
    for name, part in parts.items():
        if only not in ("", name):
            continue
        content[name] = []
        for row in part(bench):
            content[name].append(row)
            write_result(output, content, table(content))


if __name__ == "__main__":
    run(main)
