"""Find a recipe for an encoder: measure single blocks, choose, try whole recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structsam_runtime.errors import UserError

from ..encoder.patch import original
from ..merging.registry import DEFAULT, MethodSpec
from ..recipe import BlockRecipe, Recipe
from .asking import Picture
from .choosing import Frontier, frontier
from .goal import Goal, Kind
from .latency import Timed
from .measuring import block_errors, passes
from .notebook import Notebook, key
from .search import CORRECTIONS, SPREAD, search
from .settings import GMAC, METHOD, RATES, SETTINGS, UNMERGED, Prices, Pricing, everywhere, prices
from .trying import Judge, Tried

MOST = 8
"""Pictures that single blocks are measured on, at most."""
UNIFORM = [BlockRecipe(method, rate) for method in (MethodSpec(DEFAULT), METHOD) for rate in RATES]
"""Settings to try in all blocks, for a report."""


@dataclass(frozen=True)
class Tuned:
    """A recipe, and all that was measured on the way to it.

    Attributes:
        goal: what was asked for.
        best: the recipe.
        curve: recipes that were tried, by rising cost.
        uniform: recipes of one setting for all blocks.
        prices: of the settings.
        unmerged_macs: multiply-accumulates of the unmerged encoder.
        errors: float64 [N, S], of every block with each setting, mean over pictures.
        measured, tried_on: the pictures of both steps.
        global_blocks: whether each block attends to the whole map.
        timed: what whole encoders took, if blocks are priced by time.
    """

    goal: Goal
    best: Tried
    curve: tuple[Tried, ...]
    uniform: tuple[Tried, ...]
    prices: Prices
    unmerged_macs: int
    errors: NDArray[np.float64]
    measured: tuple[Picture, ...]
    tried_on: tuple[Picture, ...]
    global_blocks: tuple[bool, ...]
    timed: Timed | None = None


def divided(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Pictures to measure single blocks on, a third of them and at most `MOST`; and all others, to try on.

    Raises:
        UserError: fewer than three: an interval takes two pictures beside the first.
    """
    if len(pictures) < 3:
        raise UserError(f"tune got {len(pictures)} pictures; expected 3 at least, better 12")
    third = range(1, len(pictures), 3)
    places = {third[round(at)] for at in np.linspace(0, len(third) - 1, min(MOST, len(third)))}
    return (
        [picture for index, picture in enumerate(pictures) if index in places],
        [picture for index, picture in enumerate(pictures) if index not in places],
    )


class Tuning:
    """The state of one search.

    Args:
        encoder: SAM's ImageEncoderViT, on any device; it is left patched.
        decoder: `PromptedMaskDecoder`, on the same device.
        pictures: at least three.
        settings: what a block may get besides no merging.
        notebook: measurements of earlier runs, and where new ones go.
        model: tells this model, its weights and its size from others in the notebook.
        passed: called with a number of blocks that have run.
        uniform: settings to try in all blocks, to compare with.
        pricing: from the encoder and settings to their prices; those by which a recipe is chosen.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        pictures: Sequence[Picture],
        settings: Sequence[BlockRecipe] = SETTINGS,
        notebook: Notebook | None = None,
        model: str = "",
        passed: Callable[[int], None] = lambda blocks: None,
        uniform: Sequence[BlockRecipe] = (),
        pricing: Pricing = prices,
    ) -> None:
        self.encoder, self.settings = encoder, tuple(settings)
        self.judge = Judge(encoder, decoder)
        self.measured, self.tried_on = divided(pictures)
        self.notebook = Notebook() if notebook is None else notebook
        self.model, self.passed, self.compared = model, passed, tuple(uniform)
        self.depth = len(encoder.blocks)
        self._every = tuple(dict.fromkeys((*self.settings, *self.compared)))
        self._counted = prices(encoder, self._every)
        self._priced = self._counted if pricing is prices else pricing(encoder, self._every)
        self.prices = self._priced.first(len(self.settings))

    def passes(self) -> int:
        """Blocks that will run at most, if nothing is in the notebook."""
        recipes = 1 + SPREAD + CORRECTIONS + len(self.compared)
        return passes(self.depth, len(self.settings)) * len(self.measured) + recipes * self.depth * len(
            self.tried_on
        )

    def errors(self) -> NDArray[np.float64]:
        """float64 [N, S]: the error of the embedding with one block merged, mean over pictures."""
        made: NDArray[np.float64] = np.mean([self._errors(picture) for picture in self.measured], 0)
        return made

    def _errors(self, picture: Picture) -> NDArray[np.float64]:
        keys = [
            [self._key("block", picture, index, setting.as_json()) for setting in self.settings]
            for index in range(self.depth)
        ]
        every = [(block, number) for block in range(self.depth) for number in range(len(self.settings))]
        known = {(block, number) for block, number in every if keys[block][number] in self.notebook}
        if len(known) < len(every):
            found = block_errors(self.encoder, self.judge.tensor(picture), self.settings, known, self.passed)
            for (block, number), error in found:
                self.notebook[keys[block][number]] = error
        return np.array([[self.notebook[name] for name in row] for row in keys])

    def attempt(
        self,
        recipe: Recipe,
        label: str,
        macs: int,
        predicted: float | None,
        nanoseconds: int | None = None,
    ) -> Tried:
        """Try a recipe on every picture that was not measured on; see `Tried` for the other arguments."""
        blocks = recipe.as_json()["blocks"]
        compared = []
        for picture in self.tried_on:
            name = self._key("recipe", picture, picture.asked, blocks)
            compared.append(self.notebook.get(name, partial(self.judge.compare, picture, recipe)))
            self.passed(self.depth)
        errors, ious = zip(*compared, strict=True)
        return Tried(recipe, label, macs, predicted, errors, tuple(map(tuple, ious)), nanoseconds)

    def _key(self, what: str, picture: Picture, *more: Any) -> str:
        return key(what, self.model, picture.digest, *more)

    def find(self, goal: Goal, share: float = 1.0) -> Tuned:
        """Find the recipe that a goal asks for.

        Args:
            goal: what is wanted.
            share: of what the goal allows that recipes may cost, where prices proved too low.

        Raises:
            Unmet: no recipe that merges reaches the budget.
            UserError: every recipe costs more than the goal allows.
        """
        limit = share * self.check(goal)
        errors = self.errors()
        front = self.front(errors)

        def attempt(index: int) -> Tried:
            recipe, (macs, time) = self.recipe(front, index, goal.name), self.costs(front.choices[index])
            return self.attempt(recipe, "tuned", macs, float(front.errors[index]), time)

        uniform = tuple(self.uniform(setting, errors) for setting in self.compared)
        found = search(front, goal, limit - self.prices.stem, attempt)
        return Tuned(
            goal,
            found.best,
            found.tried,
            uniform,
            self.prices,
            self._counted.whole,
            errors,
            tuple(self.measured),
            tuple(self.tried_on),
            tuple(not original(block).window_size for block in self.encoder.blocks),
        )

    @property
    def least(self) -> int:
        """The price of the cheapest recipe."""
        return int(self.prices.stem + np.minimum(self.prices.merged.min(1), self.prices.unmerged).sum())

    def check(self, goal: Goal) -> float:
        """The most that a goal allows, in the unit of the prices.

        Raises:
            UserError: every recipe costs more, or the unmerged encoder costs less.
        """
        limit, whole, least = goal.limit(self.prices.whole), self.prices.whole, self.least
        if goal.kind is not Kind.BUDGET and not least <= limit < whole:
            unit = self.prices.unit
            raise UserError(
                f"{goal.kind.value} {goal.value:g} asks for {limit / unit.size:.4g} {unit.name}; the encoder "
                f"has {whole / unit.size:.4g}, and recipes of this search from {least / unit.size:.4g} on"
            )
        return limit

    def front(self, errors: NDArray[np.float64]) -> Frontier:
        """All recipes worth having by single-block errors [N, S]; column 0 of their choices is no merging.

        The last one is the unmerged encoder, with error 0: a setting without any error on these pictures
        still counts as worse.

        Raises:
            UserError: no setting is cheaper than no merging.
        """
        costs = np.concatenate([self.prices.unmerged[:, None], self.prices.merged], 1)
        above = np.maximum(errors, np.finfo(np.float64).tiny)
        found = frontier(costs, np.concatenate([np.zeros((self.depth, 1)), above], 1))
        if len(found) < 2:
            raise UserError("no setting makes this encoder cheaper; there is nothing to tune")
        return found

    def recipe(self, front: Frontier, index: int, name: str) -> Recipe:
        """A recipe of a frontier."""
        choice = (UNMERGED, *self.settings)
        return Recipe(tuple(choice[column] for column in front.choices[index]), name=name)

    def costs(self, columns: Sequence[int] | NDArray[np.int16]) -> tuple[int, int | None]:
        """Multiply-accumulates of a recipe, and its nanoseconds if blocks are priced by them.

        Args:
            columns: of all settings, those to compare with included, see `Prices.of`.
        """
        macs, price = self._counted.of(columns), self._priced.of(columns)
        return macs, None if self.prices.unit is GMAC else price

    def uniform(self, setting: BlockRecipe, errors: NDArray[np.float64]) -> Tried:
        """Try one setting in all blocks."""
        column = self._every.index(setting)
        predicted = float(errors[:, column].sum()) if column < len(self.settings) else None
        macs, time = self.costs([column + 1] * self.depth)
        label = f"{setting.method.label} everywhere"
        return self.attempt(everywhere(setting, self.encoder), label, macs, predicted, time)


def tune(
    encoder: Any,
    decoder: Any,
    pictures: Sequence[Picture],
    budget: float,
    settings: Sequence[BlockRecipe] = SETTINGS,
) -> Recipe:
    """The cheapest recipe found whose masks agree so well with the unmerged ones.

    Args:
        encoder: SAM's ImageEncoderViT, on any device; left patched.
        decoder: `PromptedMaskDecoder`, on the same device.
        pictures: at least three, see `pictures_of`.
        budget: least agreement, in (0, 1), that the lower end of its 95 % interval reaches.
        settings: what a block may get besides no merging.

    Raises:
        Unmet: no recipe that merges reaches the budget.
        UserError: too few pictures, or the budget is out of range.
    """
    return Tuning(encoder, decoder, pictures, settings).find(Goal(Kind.BUDGET, budget)).best.recipe
