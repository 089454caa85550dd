from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_reshapes


@pytest.mark.parametrize(
    ("shape", "target"), [("2, 12", "2, 12"), ("2, 12", "-1, 12"), ("batch, 12", "-1, 12")]
)
def test_a_reshape_to_the_same_shape_goes(apply: Callable[..., Any], shape: str, target: str) -> None:
    outcome = apply(
        drop_reshapes,
        f"""g (float[{shape}] x) => (float[{shape}] y) <int64[2] shape = {{{target}}}>
        {{ a = Relu(x) b = Reshape(a, shape) y = Neg(b) }}""",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


@pytest.mark.parametrize(
    ("shape", "target"), [("2, 12", "12, 2"), ("2, 12", "-1, 6"), ("batch, 12", "-1, 6")]
)
def test_a_reshape_to_another_shape_stays(apply: Callable[..., Any], shape: str, target: str) -> None:
    outcome = apply(
        drop_reshapes,
        f"""g (float[{shape}] x) => (float[m, n] y) <int64[2] shape = {{{target}}}>
        {{ y = Reshape(x, shape) }}""",
    )
    assert outcome.edits == 0


def test_two_unknown_dimensions_may_have_changed_places(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_reshapes,
        """g (float[a, b, 4] x) => (float[c, d, 4] y) <int64[3] order = {1, 0, 2}>
        { s = Shape(x) t = Gather(s, order) r = Reshape(x, t) y = Neg(r) }""",
    )
    assert outcome.edits == 0


@pytest.mark.parametrize(
    "view",
    ["Reshape(x, inner)", "Flatten<axis = 2>(x)", "Unsqueeze(x, axis)", "Squeeze(u, axis)"],
)
def test_a_reshape_of_a_view_reads_what_the_view_read(apply: Callable[..., Any], view: str) -> None:
    outcome = apply(
        drop_reshapes,
        f"""g (float[2, 3, 4] x, float[1, 2, 3, 4] u) => (float[4, 6] y)
        <int64[2] inner = {{8, -1}}, int64[1] axis = {{0}}, int64[2] outer = {{-1, 6}}>
        {{ a = {view} y = Reshape(a, outer) }}""",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Reshape"]


def test_an_outer_reshape_that_copies_a_dimension_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_reshapes,
        """g (float[2, 3, 4] x) => (float[8, 3, 1] y) <int64[2] inner = {8, -1}, int64[3] outer = {0, -1, 1}>
        { a = Reshape(x, inner) y = Reshape(a, outer) }""",
    )
    assert outcome.edits == 0
    assert outcome.ops == ["Reshape", "Reshape"]


def test_a_view_that_is_taken_back_is_no_step_on_the_way(apply: Callable[..., Any]) -> None:
    """Though others read it."""
    outcome = apply(
        drop_reshapes,
        """g (float[2, 12] x) => (float[2, 12] y, float[4, 6] w) <int64[2] s = {4, 6}, int64[2] t = {2, 12}>
        { p = Relu(x) a = Reshape(p, s) b = Reshape(a, t) y = Neg(b) w = Neg(a) }""",
    )
    assert sorted(outcome.ops) == ["Neg", "Neg", "Relu", "Reshape"]


def test_a_view_that_is_read_elsewhere_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_reshapes,
        """g (float[2, 3, 4] x) => (float[4, 6] y, float[8, 3] z)
        <int64[2] inner = {8, -1}, int64[2] outer = {-1, 6}>
        { a = Reshape(x, inner) y = Reshape(a, outer) z = Neg(a) }""",
    )
    assert outcome.edits == 0


def test_an_expand_to_the_same_shape_goes(apply: Callable[..., Any]) -> None:
    text = """g (float[batch, 4] x) => (float[batch, 4] y) <int64[2] one = {{1, {columns}}}>
        {{ a = Relu(x) b = Expand(a, one) y = Neg(b) }}"""
    assert apply(drop_reshapes, text.format(columns=4)).edits == 1
    assert apply(drop_reshapes, text.format(columns=1)).edits == 1


def test_an_expand_that_widens_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_reshapes,
        """g (float[batch, 1] x) => (float[batch, 4] y) <int64[2] wide = {1, 4}> { y = Expand(x, wide) }""",
    )
    assert outcome.edits == 0
