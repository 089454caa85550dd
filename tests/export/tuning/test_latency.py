"""Prices in time: what is timed, how often, and how prices come of it."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Attention
from structsam_export.encoder.patch import windows_of
from structsam_export.encoder.walk import Stage, embed, enter, leave
from structsam_export.merging.registry import MethodSpec
from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning.latency import TURNS, Latency, Part
from structsam_export.tuning.notebook import Notebook
from structsam_export.tuning.settings import MS, UNMERGED, everywhere, patch

SETTINGS = (
    BlockRecipe(MethodSpec("adjacent"), 0.5),
    BlockRecipe(MethodSpec("adjacent"), 0.5, merge_mlp=True),
)
SIZE = 256


@pytest.fixture(scope="module")
def encoder(build_encoder: Callable[..., Any]) -> Any:
    """Four blocks at 16 x 16 tokens; windows of 8 x 8 in the first and the third."""
    return build_encoder(SIZE, window_size=8)


def timer(
    time: Callable[[Part], float], notes: Notebook, machine: str = "here", model: str = "tiny"
) -> Latency:
    return Latency(time, Attention.WIDENED, notes, machine, model)


def test_each_kind_of_block_is_timed_once_a_turn(encoder: Any) -> None:
    asked: list[str] = []
    told: list[tuple[int, int]] = []

    def time(part: Part) -> float:
        asked.append(part.name)
        return 1.0

    latency = timer(time, Notebook())
    latency.measured = lambda done, number: told.append((done, number))
    latency.prices(encoder, SETTINGS)
    kinds = len(set(windows_of(encoder)))
    parts = 2 + kinds * (1 + len(SETTINGS))
    assert kinds == 2
    assert len(set(asked)) == parts
    assert asked == asked[:parts] * TURNS
    assert told == [(done + 1, parts * TURNS) for done in range(parts * TURNS)]


@given(st.data())
def test_the_price_of_a_recipe_is_a_share_of_the_whole(encoder: Any, data: st.DataObject) -> None:
    """Against the times that were measured: medians, added up block by block."""
    measured: dict[str, list[float]] = {}

    def time(part: Part) -> float:
        seconds = data.draw(st.floats(1e-4, 9.0))
        measured.setdefault(part.name, []).append(seconds)
        return seconds

    latency = timer(time, Notebook())
    prices = latency.prices(encoder, SETTINGS)
    columns = data.draw(st.lists(st.integers(0, len(SETTINGS)), min_size=4, max_size=4))

    def total(columns: list[int]) -> float:
        names = [latency.block(encoder, i, (UNMERGED, *SETTINGS)[c]).name for i, c in enumerate(columns)]
        return sum(statistics.median(measured[name]) for name in ["rest", *names])

    (whole,) = (statistics.median(times) for name, times in measured.items() if name.startswith("whole"))
    assert prices.of(columns) == pytest.approx(1e9 * whole * total(columns) / total([0] * 4), rel=1e-6, abs=9)
    assert prices.whole == pytest.approx(1e9 * whole, abs=9)
    assert prices.unit is MS


def test_what_was_timed_is_not_timed_again_on_the_same_machine(encoder: Any) -> None:
    notes = Notebook()
    first = timer(lambda part: len(part.name) / 100, notes).prices(encoder, SETTINGS)
    again = timer(lambda part: pytest.fail("timed twice"), notes)
    assert again.prices(encoder, SETTINGS).of([1] * 4) == first.of([1] * 4)
    assert again.prices(encoder, SETTINGS[1:]).of([1] * 4) == first.of([2] * 4)
    for other in (
        timer(lambda part: 5.0, notes, machine="there"),
        timer(lambda part: 5.0, notes, model="huge"),
    ):
        assert other.prices(encoder, SETTINGS).whole == 5 * 10**9


@given(st.integers(0, 8 * TURNS - 1))
def test_a_stopped_run_goes_on_where_it_was(encoder: Any, number: int) -> None:
    notes, asked = Notebook(), list[str]()

    def stops(part: Part) -> float:
        if len(asked) == number:
            raise KeyboardInterrupt
        asked.append(part.name)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        timer(stops, notes).prices(encoder, SETTINGS)
    rest: list[str] = []
    timer(lambda part: rest.append(part.name) or 1.0, notes).prices(encoder, SETTINGS)
    assert len(asked) + len(rest) == 8 * TURNS
    assert [*asked, *rest] == (asked + rest)[:8] * TURNS


def test_encoders_that_are_compared_take_turns(encoder: Any) -> None:
    asked, notes = list[str](), Notebook()

    def time(part: Part) -> float:
        asked.append(part.name)
        return 1.0 + len(asked)

    unmerged, merged, other = (everywhere(one, encoder) for one in (UNMERGED, *SETTINGS))
    latency = timer(time, notes)
    first = latency.whole(encoder, [unmerged, merged])
    assert asked == asked[:2] * TURNS
    assert latency.whole(encoder, [unmerged, merged]) == first
    assert len(asked) == 2 * TURNS
    latency.whole(encoder, [unmerged, other])
    assert len(asked) == 4 * TURNS, "the unmerged encoder is timed again, beside the other one"


def test_blocks_whose_method_depends_on_depth_are_timed_one_by_one(encoder: Any) -> None:
    names = {
        timer(lambda part: 1.0, Notebook()).block(encoder, index, one).name
        for index in (0, 2)
        for one in SETTINGS
    }
    assert len(names) == len(SETTINGS)
    deep = BlockRecipe(MethodSpec("algm"), 0.5)
    assert len({timer(lambda part: 1.0, Notebook()).block(encoder, i, deep).name for i in (0, 2)}) == 2


@torch.no_grad()
def test_parts_make_up_the_encoder(encoder: Any) -> None:
    """Run one after another, with the rest around them; and as a whole."""
    modules: dict[str, Any] = {}

    def time(part: Part) -> float:
        modules.setdefault(part.name, part.make())
        return 1.0

    recipe = Recipe((SETTINGS[0], UNMERGED, SETTINGS[1], SETTINGS[0]))
    latency = timer(time, Notebook())
    latency.prices(encoder, SETTINGS)
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    x = enter(encoder, image).x
    for index, setting in enumerate(recipe.blocks):
        part = latency.block(encoder, index, setting)
        assert part.shape == x.shape
        x = part.make()(x)
    assert torch.equal(modules["rest"](image), leave(encoder, enter(encoder, image)))
    (taken,) = latency.whole(encoder, [recipe])
    whole = modules[f"whole {recipe.as_json()['blocks']}"]
    assert taken == 10**9
    patch(encoder, recipe, form=Attention.WIDENED)
    assert torch.equal(whole(image), embed(encoder, image)[0])
    torch.testing.assert_close(whole(image), leave(encoder, Stage(x)))
