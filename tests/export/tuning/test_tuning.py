"""A search on a small SAM: what is measured, what is tried, and what comes of it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from structsam_export.analysis.macs import encoder_macs
from structsam_export.encoder.decoder import PromptedMaskDecoder
from structsam_export.encoder.walk import embed
from structsam_export.merging.registry import MethodSpec
from structsam_export.models.checkpoints import load_sam
from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning import trying
from structsam_export.tuning.asking import Picture, pictures_of
from structsam_export.tuning.core import Tuned, Tuning, divided, tune
from structsam_export.tuning.goal import Goal, Kind
from structsam_export.tuning.measuring import block_errors, passes, relative_error
from structsam_export.tuning.notebook import Notebook
from structsam_export.tuning.report import additivity
from structsam_export.tuning.search import Unmet
from structsam_export.tuning.settings import MS, UNMERGED, Prices, everywhere, patch
from structsam_export.tuning.trying import Judge, over_pictures
from structsam_runtime.errors import NotFiniteError, UserError
from structsam_runtime.manifest import Model
from structsam_runtime.runners.base import Array

ADJACENT = MethodSpec("adjacent")
SETTINGS = (
    BlockRecipe(ADJACENT, 0.25),
    BlockRecipe(ADJACENT, 0.7),
    BlockRecipe(ADJACENT, 0.5, merge_mlp=True),
)
SIZE = 224


class Small(NamedTuple):
    """A small SAM and pictures for it."""

    encoder: Any
    decoder: Any
    pictures: list[Picture]


def photographs(number: int) -> dict[str, NDArray[np.uint8]]:
    """Different parts of photographs."""
    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    parts = [astronaut[:256, :256], coffee[:200], coffee[200:], astronaut[256:], astronaut[:, 256:]]
    return {f"{index}.png": part for index, part in enumerate(parts[:number])}


@pytest.fixture(scope="module")
def small(tiny: str, sam: Model) -> Small:
    """Four blocks, of which two are global, at 14 x 14 tokens."""
    made = load_sam(tiny, SIZE, None, random_weights=True)
    model = dataclasses.replace(sam, image_size=SIZE, embedding=(256, 14, 14), low_res=56)
    decoder = PromptedMaskDecoder(made).eval()
    return Small(made.image_encoder, decoder, pictures_of(photographs(4), model))


@pytest.fixture(scope="module")
def notes() -> Notebook:
    """What the searches of this file share."""
    return Notebook()


@pytest.fixture(scope="module")
def tuning(small: Small, notes: Notebook) -> Tuning:
    """A search that the tests of this file share."""
    return Tuning(*small, SETTINGS, notes, uniform=SETTINGS[:2])


Search = Callable[[Goal], Tuned]


@pytest.fixture(scope="module")
def search(tuning: Tuning) -> Search:
    """A search for a goal."""
    return tuning.find


@torch.no_grad()
def embedding(encoder: Any, picture: Picture, recipe: Recipe) -> Array:
    """Of a patched encoder, run from the picture on."""
    patch(encoder, recipe)
    made = embed(encoder, torch.from_numpy(picture.sample.feed["image"]))[0]
    return made.numpy().astype(np.float64)


def test_an_error_is_that_of_the_whole_encoder_with_one_block_merged(small: Small) -> None:
    picture, depth = small.pictures[0], len(small.encoder.blocks)
    ran: list[int] = []
    image = Judge(small.encoder, None).tensor(picture)
    found = dict(block_errors(small.encoder, image, SETTINGS, passed=ran.append))
    assert sum(ran) == passes(depth, len(SETTINGS))
    wanted = embedding(small.encoder, picture, everywhere(UNMERGED, small.encoder))
    assert len(found) == depth * len(SETTINGS)
    for (block, number), error in found.items():
        blocks = [UNMERGED] * depth
        blocks[block] = SETTINGS[number]
        made = embedding(small.encoder, picture, Recipe(tuple(blocks)))
        assert error == pytest.approx(((made - wanted) ** 2).sum() / (wanted**2).sum(), rel=1e-3, abs=1e-9)


def test_what_is_known_is_not_measured_again(small: Small) -> None:
    image = Judge(small.encoder, None).tensor(small.pictures[0])
    known = {(block, number) for block in range(4) for number in range(3)} - {(3, 1)}
    assert [place for place, _ in block_errors(small.encoder, image, SETTINGS, known)] == [(3, 1)]


def test_prices_are_those_of_every_recipe(small: Small, tuning: Tuning) -> None:
    """Of mixed recipes too, though only uniform ones are counted."""
    table = tuning.prices
    mixed = (SETTINGS[1], UNMERGED, SETTINGS[2], SETTINGS[0])
    patch(small.encoder, Recipe(mixed))
    told = encoder_macs(small.encoder)
    expected = table.merged[0, 1] + table.unmerged[1] + table.merged[2, 2] + table.merged[3, 0]
    assert told.total == table.stem + expected
    assert told.unmerged == table.whole


@pytest.mark.parametrize("share", [0.85, 0.97])
def test_a_limit_is_kept_with_the_least_predicted_error(search: Search, share: float) -> None:
    """Against all recipes of the table, one by one."""
    goal = Goal(Kind.SPEEDUP, 1 / share)
    found = search(goal)
    limit = goal.limit(found.prices.whole)
    assert found.best.macs <= limit
    errors = np.concatenate([np.zeros((4, 1)), found.errors], 1)
    costs = np.concatenate([found.prices.unmerged[:, None], found.prices.merged], 1)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 4), -1).reshape(-1, 4)
    every = [(errors[range(4), row].sum(), found.prices.stem + costs[range(4), row].sum()) for row in grid]
    least = min(error for error, cost in every if cost <= limit)
    near = [one for one in found.curve if one.predicted == pytest.approx(least)]
    assert len(near) == 1
    assert found.best.agreement.mean >= near[0].agreement.mean


def test_a_budget_is_kept_by_the_interval_of_pictures_that_were_not_measured(search: Search) -> None:
    loose = search(Goal(Kind.BUDGET, 0.05))
    assert loose.best.agreement.low >= 0.05
    assert loose.best is min(loose.curve, key=lambda one: one.macs)
    names = [{picture.name for picture in some} for some in (loose.measured, loose.tried_on)]
    assert names == [{"1.png"}, {"0.png", "2.png", "3.png"}]


def test_sums_of_single_blocks_rank_whole_recipes_and_that_is_measured(search: Search) -> None:
    found = search(Goal(Kind.BUDGET, 0.05))
    known = [one for one in (*found.curve, *found.uniform) if one.predicted]
    assert len(known) >= 4
    assert spearmanr([one.predicted for one in known], [one.error for one in known]).statistic > 0.7
    assert f"Over {len(known)} recipes" in additivity(known)
    assert additivity(known[:2]).startswith("Too few")


def test_a_budget_that_no_recipe_reaches_names_the_nearest(search: Search) -> None:
    with pytest.raises(Unmet) as unmet:
        search(Goal(Kind.BUDGET, 1 - 1e-9))
    assert 0 < unmet.value.nearest.agreement.low < 1


def test_as_a_function(small: Small) -> None:
    recipe = tune(small.encoder, small.decoder, small.pictures[:3], budget=0.05, settings=SETTINGS[:1])
    assert any(block.merges for block in recipe.blocks)


def test_a_second_search_measures_nothing(small: Small, notes: Notebook, search: Search) -> None:
    goal = Goal(Kind.SPEEDUP, 1.15)
    first = search(goal)
    blind = Tuning(small.encoder, None, small.pictures, SETTINGS, notes)
    assert blind.find(goal).best == first.best
    blind.model = "another"
    with pytest.raises(TypeError):  # it has to measure, without a decoder
        blind.find(goal)


def test_the_last_recipe_of_a_frontier_is_the_unmerged_encoder(tuning: Tuning) -> None:
    for errors in (np.zeros((4, 3)), np.eye(4, 3), np.ones((4, 3))):
        front = tuning.front(errors)
        assert (front.choices[-1] == 0).all()
        assert front.errors[-1] == 0
        assert front.errors[-2] > 0


def test_an_encoder_that_nothing_makes_cheaper_is_one_line(small: Small, notes: Notebook) -> None:
    tuning = Tuning(*small, SETTINGS[:1], notes)
    tuning.prices = dataclasses.replace(tuning.prices, merged=tuning.prices.unmerged[:, None] + 1)
    with pytest.raises(UserError, match="no setting makes this encoder cheaper"):
        tuning.find(Goal(Kind.BUDGET, 0.5))


def test_a_limit_that_no_recipe_keeps_is_one_line(search: Search) -> None:
    for goal in (Goal(Kind.SPEEDUP, 100), Goal(Kind.MACS, 1e-6), Goal(Kind.MACS, 1e6)):
        with pytest.raises(UserError, match=r"asks for .* GMAC; the encoder has .* from .* on"):
            search(goal)


class Slow(NamedTuple):
    """Prices in time in which the first setting is slower than no merging, and what was asked about them."""

    tuning: Tuning
    asked: list[tuple[BlockRecipe, ...]]


@pytest.fixture(scope="module")
def slow(small: Small, notes: Notebook) -> Slow:
    asked: list[tuple[BlockRecipe, ...]] = []

    def pricing(encoder: Any, settings: Sequence[BlockRecipe]) -> Prices:
        asked.append(tuple(settings))
        merged = np.array([[60, 25, 30, 45]] * 4) * 10**6 + np.arange(4)[:, None]
        return Prices(10**7, np.full(4, 50 * 10**6), merged, MS)

    few = small._replace(pictures=small.pictures[:3])
    return Slow(Tuning(*few, SETTINGS, notes, uniform=(BlockRecipe(rate=0.5),), pricing=pricing), asked)


@pytest.mark.parametrize("goal", [Goal(Kind.SPEEDUP, 1.3), Goal(Kind.BUDGET, 0.05)])
def test_a_recipe_can_be_chosen_by_time(slow: Slow, small: Small, goal: Goal) -> None:
    """Against all recipes of the table, one by one."""
    found = slow.tuning.find(goal)
    assert slow.asked == [(*SETTINGS, BlockRecipe(rate=0.5))], "all settings are timed in turns, once"
    choices = [UNMERGED, *SETTINGS]
    costs = np.concatenate([found.prices.unmerged[:, None], found.prices.merged], 1)
    errors = np.concatenate([np.zeros((4, 1)), found.errors], 1)
    for one in found.curve:
        columns = [choices.index(block) for block in one.recipe.blocks]
        assert one.price == one.nanoseconds == 10**7 + costs[range(4), columns].sum()
        assert 1 not in columns, "slower than no merging"
        patch(small.encoder, one.recipe)
        assert one.macs == encoder_macs(small.encoder).total
        assert one.told == f"{one.price / 1e6:.2f} ms"
    (other,) = found.uniform
    assert other.nanoseconds == 10**7 + 4 * 45 * 10**6 + 6
    assert found.unmerged_macs == encoder_macs(small.encoder).unmerged
    if goal.kind is Kind.SPEEDUP:
        assert found.best.price <= 210 * 10**6 / 1.3
        grid = np.stack(np.meshgrid(*[np.arange(4)] * 4), -1).reshape(-1, 4)
        fast = [row for row in grid if 10**7 + costs[range(4), row].sum() <= 210 * 10**6 / 1.3]
        least = min(errors[range(4), row].sum() for row in fast)
        assert least in [pytest.approx(one.predicted) for one in found.curve]


def test_a_limit_of_time_that_no_recipe_keeps_is_one_line(slow: Slow) -> None:
    told = "--speedup 2 asks for 105 ms; the encoder has 210, and recipes of this search from 110 on"
    with pytest.raises(UserError, match=told):
        slow.tuning.find(Goal(Kind.SPEEDUP, 2))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_pictures_are_one_line(small: Small, number: int) -> None:
    with pytest.raises(UserError, match=f"tune got {number} pictures; expected 3 at least"):
        divided(small.pictures[:number])


@pytest.mark.parametrize(("number", "measured"), [(3, 1), (4, 1), (8, 3), (24, 8), (100, 8)])
def test_a_third_is_measured_on_and_all_others_are_tried_on(small: Small, number: int, measured: int) -> None:
    pictures = [small.pictures[0]] * number
    first, second = divided(pictures)
    assert (len(first), len(second)) == (measured, number - measured)


def test_masks_of_the_unmerged_encoder_agree_with_themselves(small: Small) -> None:
    judge = Judge(small.encoder, small.decoder)
    error, ious = judge.compare(small.pictures[0], everywhere(UNMERGED, small.encoder))
    assert (error, ious) == (0.0, [1.0] * 18)
    merged = judge.compare(small.pictures[0], everywhere(BlockRecipe(rate=0.75), small.encoder))
    assert merged[0] > 0
    assert min(merged[1]) < 1


def test_many_prompts_are_decoded_in_parts(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, recipe = Judge(small.encoder, small.decoder), everywhere(SETTINGS[1], small.encoder)
    monkeypatch.setitem(trying.AT_ONCE, "cpu", 18)
    whole = judge.compare(small.pictures[0], recipe)
    monkeypatch.setitem(trying.AT_ONCE, "cpu", 7)
    parts = Judge(small.encoder, small.decoder).compare(small.pictures[0], recipe)
    assert parts[0] == whole[0]
    assert parts[1] == pytest.approx(whole[1], abs=0.01)


def test_of_a_point_the_mask_is_compared_that_the_unmerged_encoder_rates_best(small: Small) -> None:
    seen: list[NDArray[np.float32]] = []

    def decoder(*inputs: torch.Tensor) -> Any:
        logits, quality = small.decoder(*inputs)
        seen.append(quality.numpy())
        return logits, quality

    judge, picture = Judge(small.encoder, decoder), small.pictures[0]
    merged = judge.merged(picture, everywhere(SETTINGS[1], small.encoder))
    assert (merged.candidate[:9] == 0).all()
    unmerged = np.concatenate(seen)[9:18]  # it is asked first
    assert (merged.candidate[9:] == 1 + unmerged[:, 1:].argmax(1)).all()


def test_weights_that_give_nan_are_one_line() -> None:
    with pytest.raises(NotFiniteError, match="the encoder returned NaN or infinity"):
        relative_error(torch.full((2,), torch.nan), torch.ones(2))


def test_an_interval_of_a_few_pictures_is_students() -> None:
    made = over_pictures([0.9, 0.92, 0.94])
    assert made.mean == pytest.approx(0.92)
    assert made.low == pytest.approx(0.92 - 4.3027 * 0.02 / 3**0.5, abs=1e-5)
    assert over_pictures([0.99, 0.5]).low == 0
    assert over_pictures([0.99, 0.5]).high == 1
