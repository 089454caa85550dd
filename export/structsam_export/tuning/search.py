"""From single-block errors and tried recipes to the recipe that a goal asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .choosing import Frontier
from .goal import Goal, Kind
from .trying import Tried

Try = Callable[[int], Tried]
"""Tries a recipe of a frontier by its index."""
SPREAD = 4
"""Recipes over the whole frontier that are tried first; they are the curve of the report."""
CORRECTIONS = 3
"""Recipes that are tried near the goal after that, at most."""


class Unmet(Exception):
    """No recipe that merges reaches the budget.

    Args:
        nearest: the tried recipe with the highest lower end of its interval.
    """

    def __init__(self, nearest: Tried) -> None:
        super().__init__("no recipe that merges reaches the budget")
        self.nearest = nearest


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        best: the recipe.
        tried: all recipes of the frontier that were tried, by rising cost.
    """

    best: Tried
    tried: tuple[Tried, ...]


def spread(front: Frontier) -> list[int]:
    """Indices of `SPREAD` recipes from the cheapest on, evenly spaced by cost; without the unmerged one."""
    costs = np.linspace(front.costs[0], front.costs[-1], SPREAD + 1)[:-1]
    return sorted({int(np.abs(front.costs[:-1] - cost).argmin()) for cost in costs})


def search(front: Frontier, goal: Goal, limit: float, attempt: Try) -> Found:
    """Find the recipe that a goal asks for.

    Args:
        front: the recipes; the last one is the unmerged encoder, with error 0, and there is another one.
        goal: what is wanted.
        limit: the most that a recipe may cost, in the unit of `front.costs`; at least the cheapest costs.
        attempt: tries a recipe.

    Raises:
        Unmet: no recipe that merges reaches the budget.
    """
    tried = {index: attempt(index) for index in spread(front)}
    if goal.kind is Kind.BUDGET:
        for _ in range(CORRECTIONS):
            index = promising(front, tried, goal.value)
            if index in tried or index == len(front) - 1:
                break
            tried[index] = attempt(index)
        good = [index for index, one in tried.items() if one.agreement.low >= goal.value]
        if not good:
            raise Unmet(max(tried.values(), key=lambda one: one.agreement.low))
        best = min(good)
    else:
        last = int(np.searchsorted(front.costs, limit, side="right")) - 1
        near = range(max(0, last - CORRECTIONS + 1), last + 1)
        tried |= {index: attempt(index) for index in near if index not in tried}
        best = max(near, key=lambda index: tried[index].agreement.mean)
    return Found(tried[best], tuple(tried[index] for index in sorted(tried)))


def promising(front: Frontier, tried: dict[int, Tried], budget: float) -> int:
    """The cheapest recipe that, by those that were tried, should reach a budget.

    Disagreement grows about as the square root of the embedding's error, so the lower end of the interval is
    interpolated over that; the unmerged encoder, with error 0, agrees with itself. Where a recipe does better
    than one of lower error, the other's lower end is taken.

    Returns:
        Its index; the last one, the unmerged encoder, if none should.
    """
    root = np.sqrt(front.errors)
    known = sorted(tried, reverse=True)  # by rising error
    places = np.array([0.0, *(root[index] for index in known)])
    lows = np.minimum.accumulate([1.0, *(tried[index].agreement.low for index in known)])
    expected = np.interp(root, places, lows)
    return int(np.argmax(expected >= budget))
