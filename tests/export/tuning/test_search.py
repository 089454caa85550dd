"""Which recipes of a frontier are tried, and which one is taken."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning.choosing import Frontier
from structsam_export.tuning.goal import Goal, Kind
from structsam_export.tuning.search import CORRECTIONS, SPREAD, Try, Unmet, promising, search, spread
from structsam_export.tuning.trying import Tried
from structsam_runtime.errors import UserError

ERRORS = np.array([0.09, 0.04, 0.0225, 0.01, 0.0025, 0.0009, 0.0004, 0.0001, 0.0])
FRONT = Frontier(np.arange(10, 19) * 10**9, ERRORS, np.zeros((9, 1), np.int16))


def tried(index: int, mean: float, half: float = 0.01) -> Tried:
    """A recipe with this agreement on two pictures, and an interval of this half-width."""
    off = half / 12.706  # Student's t of one degree of freedom
    ious = ((mean - off,), (mean + off,))
    recipe = Recipe((BlockRecipe(rate=0.5),), name=str(index))
    return Tried(recipe, "tuned", int(FRONT.costs[index]), float(ERRORS[index]), (0.0, 0.0), ious)


def attempts(slope: float, asked: list[int]) -> Try:
    """Agreement that falls with the root of the error."""

    def attempt(index: int) -> Tried:
        asked.append(index)
        return tried(index, 1 - slope * float(np.sqrt(ERRORS[index])), half=1e-4)

    return attempt


@given(st.floats(0.3, 3), st.floats(0.5, 0.999))
def test_a_budget_gets_the_cheapest_recipe_that_keeps_it(slope: float, budget: float) -> None:
    asked: list[int] = []
    attempt = attempts(slope, asked)
    good = [index for index in range(8) if tried_low(slope, index) >= budget]
    if not good:
        with pytest.raises(Unmet):
            search(FRONT, Goal(Kind.BUDGET, budget), np.inf, attempt)
        return
    found = search(FRONT, Goal(Kind.BUDGET, budget), np.inf, attempt)
    assert found.best.agreement.low >= budget
    assert found.best.recipe.name == str(min(good))
    assert len(asked) == len(set(asked)) <= SPREAD + CORRECTIONS
    assert list(found.tried) == sorted(found.tried, key=lambda one: one.macs)


def tried_low(slope: float, index: int) -> float:
    return attempts(slope, [])(index).agreement.low


def test_a_sum_that_mispredicts_is_corrected() -> None:
    """Agreement is far worse near the goal than between the recipes that were tried first."""
    agreement = dict(enumerate([0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.97, 0.99]))
    found = search(FRONT, Goal(Kind.BUDGET, 0.9), np.inf, lambda i: tried(i, agreement[i], half=1e-4))
    assert found.best.recipe.name == "6"


@pytest.mark.parametrize(("limit", "expected"), [(12.5, 2), (12.0, 2), (10.0, 0), (17.9, 7)])
def test_a_limit_gets_the_best_recipe_within_it(limit: float, expected: int) -> None:
    found = search(FRONT, Goal(Kind.MACS, limit), limit * 1e9, attempts(1, []))
    assert found.best.recipe.name == str(expected)


def test_of_neighbours_within_a_limit_the_best_measured_one_is_taken() -> None:
    found = search(FRONT, Goal(Kind.MACS, 14), 14e9, lambda i: tried(i, 0.95 if i == 3 else 0.9))
    assert found.best.recipe.name == "3"


def test_recipes_over_the_whole_frontier_are_tried_but_not_the_unmerged_encoder() -> None:
    assert spread(FRONT) == [0, 2, 4, 6]
    two = Frontier(FRONT.costs[-2:], ERRORS[-2:], FRONT.choices[-2:])
    assert spread(two) == [0]


def test_where_nothing_promises_the_budget_the_unmerged_encoder_is_left() -> None:
    assert promising(FRONT, {7: tried(7, 0.5)}, 0.99) == len(FRONT) - 1
    assert promising(FRONT, {0: tried(0, 0.999, 1e-5)}, 0.9) == 0


def test_a_recipe_that_does_better_than_one_of_lower_error_promises_no_more_than_that_one() -> None:
    lucky = {4: tried(4, 0.8, 1e-5), 0: tried(0, 0.95, 1e-5)}
    assert promising(FRONT, lucky, 0.9) == 6, "0.92 between 0.8 and the unmerged encoder"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((Kind.BUDGET, value) for value in (0, 1, float("nan"), 97)),
        *((Kind.SPEEDUP, value) for value in (1, 0.5, float("inf"))),
        *((Kind.MACS, value) for value in (0, -1, float("nan"))),
    ],
)
def test_a_goal_that_cannot_be_is_one_line(kind: Kind, value: float) -> None:
    with pytest.raises(UserError, match=rf"^{kind.value} is .*; expected "):
        Goal(kind, value)


def test_a_goal_names_its_recipe() -> None:
    goals = {Goal(Kind.BUDGET, 0.97): "tuned97", Goal(Kind.SPEEDUP, 2): "tuned2x"}
    goals[Goal(Kind.MACS, 200)] = "tuned200gmac"
    assert {goal: goal.name for goal in goals} == goals
    assert [goal.limit(486 * 10**9) for goal in goals] == [float("inf"), 243e9, 200e9]
