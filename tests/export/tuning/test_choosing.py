"""The choice over a table of single-block errors, against every recipe there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_export.tuning.choosing import frontier

Table = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Costs and errors of a few blocks with a few settings; equal ones are likely."""
    blocks, settings = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    costs = [[draw(st.integers(0, 6)) for _ in range(settings)] for _ in range(blocks)]
    errors = [[draw(st.integers(0, 8)) / 8 for _ in range(settings)] for _ in range(blocks)]  # sums are exact
    return np.array(costs, np.int64), np.array(errors)


def every(costs: NDArray[np.int64], errors: NDArray[np.float64]) -> set[tuple[int, float]]:
    """Cost and error of all recipes that no other one beats, one recipe after the other."""
    columns = itertools.product(range(costs.shape[1]), repeat=len(costs))
    made = {
        (
            int(sum(costs[block, column] for block, column in enumerate(recipe))),
            float(sum(errors[block, column] for block, column in enumerate(recipe))),
        )
        for recipe in columns
    }
    return {one for one in made if not any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in made)}


@given(tables())
def test_it_has_exactly_the_recipes_that_no_other_one_beats(table: Table) -> None:
    found = frontier(*table)
    assert set(zip(found.costs.tolist(), found.errors.tolist(), strict=True)) == every(*table)
    assert len(found) == len(set(found.costs.tolist()))


@given(tables())
def test_its_choices_have_the_cost_and_the_error_that_it_says(table: Table) -> None:
    costs, errors = table
    found = frontier(costs, errors)
    rows = np.arange(len(costs))
    for cost, error, choice in zip(found.costs, found.errors, found.choices, strict=True):
        assert costs[rows, choice].sum() == cost
        assert errors[rows, choice].sum() == error
    assert (np.diff(found.costs) > 0).all()
    assert (np.diff(found.errors) < 0).all()


def test_many_blocks_of_two_kinds_stay_few_recipes() -> None:
    """ViT-H has 28 window blocks and 4 global ones."""
    random = np.random.default_rng(0)
    kinds = random.integers(10**8, 10**9, (2, 9))
    costs = kinds[[0] * 28 + [1] * 4]
    found = frontier(costs, random.exponential(size=costs.shape))
    assert 50 < len(found) < 100_000


def test_a_table_that_cannot_be_is_refused() -> None:
    costs = np.ones((2, 3), np.int64)
    for errors in (np.ones((3, 2)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match=r"expected the same|not finite"):
            frontier(costs, errors)
