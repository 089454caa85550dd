from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_slices

INT64_MAX = 2**63 - 1


def slice_of(shape: str, start: int, end: int, axis: int = 1, step: int = 1) -> str:
    return f"""g (float[{shape}] x) => (float[a, b] y)
        <int64[1] start = {{{start}}}, int64[1] end = {{{end}}},
         int64[1] axis = {{{axis}}}, int64[1] step = {{{step}}}>
        {{ p = Relu(x) q = Slice(p, start, end, axis, step) y = Neg(q) }}"""


@pytest.mark.parametrize(
    ("shape", "start", "end", "axis"),
    [
        ("2, 5", 0, 5, 1),
        ("2, 5", 0, 9, -1),
        ("2, 5", -5, INT64_MAX, 1),
        ("batch, 5", 0, INT64_MAX, 0),
        ("batch, 5", 0, 2**31 - 1, 0),
    ],
)
def test_a_slice_that_takes_everything_goes(
    apply: Callable[..., Any], shape: str, start: int, end: int, axis: int
) -> None:
    outcome = apply(drop_slices, slice_of(shape, start, end, axis))
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


@pytest.mark.parametrize(
    ("shape", "start", "end", "axis", "step"),
    [
        ("2, 5", 0, 4, 1, 1),
        ("2, 5", 1, 5, 1, 1),
        ("2, 5", 0, -1, 1, 1),
        ("2, 5", 0, 5, 1, 2),
        ("2, 5", INT64_MAX, -INT64_MAX, 1, -1),
        ("batch, 5", 0, 100, 0, 1),  # a batch of 101 is cut
        ("batch, 5", -3, INT64_MAX, 0, 1),  # the batch of 3 that runs here is whole, one of 4 is not
    ],
)
def test_a_slice_that_may_leave_something_stays(
    apply: Callable[..., Any], shape: str, start: int, end: int, axis: int, step: int
) -> None:
    outcome = apply(drop_slices, slice_of(shape, start, end, axis, step))
    assert outcome.edits == 0


def test_without_axes_the_bounds_are_for_the_first_dimensions(apply: Callable[..., Any]) -> None:
    text = """g (float[2, 5] x) => (float[2, n] y) <int64[2] start = {{0, 0}}, int64[2] end = {{2, {end}}}>
        {{ p = Relu(x) y = Slice(p, start, end) }}"""
    assert apply(drop_slices, text.format(end=5)).edits == 1
    assert apply(drop_slices, text.format(end=4)).edits == 0


def test_computed_bounds_stay(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_slices,
        """g (float[2, 5] x, int64[1] start) => (float[n, 5] y)
        <int64[1] end = {2}> { y = Slice(x, start, end) }""",
    )
    assert outcome.edits == 0
