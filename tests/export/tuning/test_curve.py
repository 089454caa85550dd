"""The curve of a report: numbers of the axes, and where marks lie."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, curve, ticks
from structsam_export.tuning.settings import MS
from structsam_export.tuning.trying import Tried


@given(st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_axes_have_a_few_round_numbers_within_them(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    assert 2 <= len(found) <= 10
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)


def tried(label: str, gmac: float, mean: float) -> Tried:
    ious = ((max(0.0, mean - 0.001),), (min(1.0, mean + 0.001),))
    return Tried(Recipe((BlockRecipe(),)), label, int(gmac * 1e9), None, (0.0, 0.0), ious)


@given(st.lists(st.tuples(st.floats(1, 486), st.floats(0.02, 0.99)), min_size=1, max_size=6))
def test_everything_lies_within_the_drawing(places: list[tuple[float, float]]) -> None:
    some = [tried("tuned", *place) for place in sorted(places)]
    drawn = ElementTree.fromstring(curve([some, some[:1]], some[0], 487 * 10**9, ("y", 97)))
    circles = drawn.findall(".//circle")
    assert len(circles) == len(some) + 1  # and the ring
    for circle in circles:
        assert LEFT <= float(circle.get("cx", "0")) <= WIDTH - RIGHT
        assert TOP <= float(circle.get("cy", "0")) <= HEIGHT - BOTTOM
    assert len(drawn.findall(".//title")) == len(some) + 1
    assert "487.00 GMAC" in str(drawn.get("aria-label"))


def test_prices_in_time_have_their_unit() -> None:
    """An encoder that one setting makes slower lies within the drawing too."""
    fast, slow = (replace(tried("tuned", 1, 0.9), nanoseconds=time) for time in (12_500_000, 90_000_000))
    drawn = ElementTree.fromstring(curve([[fast], [slow]], fast, 80_000_000, ("x", 20.0), MS))
    texts = [one.text for one in drawn.iter("text")]
    assert "predicted ms" in texts
    assert "GMAC" not in "".join(map(str, texts))
    assert "The recipe has 12.50 ms" in str(drawn.get("aria-label"))
    places = [float(one.get("cx", "0")) for one in drawn.iter("circle")]
    assert all(LEFT <= place <= WIDTH - RIGHT for place in places)
    assert [str(one.text).split(",")[0] for one in drawn.iter("title")] == [
        "tuned: 90.00 ms",
        "tuned: 12.50 ms",
    ]


def test_what_costs_more_lies_further_right_and_what_agrees_better_lies_higher() -> None:
    axes = Axes((0, 100), (50, 100))
    (left, low), (right, high) = axes.place(10, 60), axes.place(90, 99)
    assert left < right
    assert low > high


@pytest.mark.parametrize("line", [("x", 3.0), ("y", 97.0), None])
def test_what_was_asked_for_is_a_line(line: tuple[str, float] | None) -> None:
    some = [tried("tuned", 2, 0.9), tried("tuned", 4, 0.99)]
    text = curve([some], some[0], 5 * 10**9, line)
    assert len(re.findall('class="asked"', text)) == (0 if line is None else 1)
