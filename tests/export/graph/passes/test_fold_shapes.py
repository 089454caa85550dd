from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import fold_shapes


def target(outcome: Any, op: str) -> list[int]:
    """The shape a node was given."""
    (node,) = [node for node in outcome.model.graph.node if node.op_type == op]
    shape: list[int] = outcome.constants[node.input[1]].tolist()
    return shape


def test_the_shape_of_a_static_tensor_is_a_constant(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[2, 6] x, int64[2] z) => (int64[2] y, int64 n)
        { s = Shape(x) y = Add(z, s) t = Size(x) n = Neg(t) }""",
    )
    assert outcome.edits == 2
    assert outcome.ops == ["Add", "Neg"]


def test_the_static_part_of_a_dynamic_shape_is_a_constant(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[batch, 6, 4] x, int64[2] z) => (int64[2] y, int64[1] w, int64 v)
        <int64 one = {1}, int64[1] first = {1}, int64[1] last = {3}> {
            a = Shape<start = 1>(x) y = Add(z, a)
            s = Shape(x) b = Slice(s, first, last) c = ReduceSum(b) w = Neg(c)
            d = Gather(s, one) v = Neg(d)
        }""",
    )
    assert outcome.edits == 3
    assert outcome.ops.count("Shape") == 0


def test_a_reshape_by_the_batch_becomes_minus_one(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[batch, 6, 4] x) => (float[batch, 24] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] rest = {24}> {
            s = Shape(x) b = Slice(s, zero, one) t = Concat<axis = 0>(b, rest) y = Reshape(x, t)
        }""",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Reshape"]
    assert target(outcome, "Reshape") == [-1, 24]


def test_arithmetic_on_the_batch_becomes_minus_one(apply: Callable[..., Any]) -> None:
    """Windows of a feature map: batch times four, which nothing writes down."""
    outcome = apply(
        fold_shapes,
        """g (float[batch, 4, 6] x) => (float[n, 6] y)
        <int64 zero = {0}, int64 four = {4}, int64[1] axis = {0}, int64[1] six = {6}> {
            s = Shape(x) b = Gather(s, zero) m = Mul(b, four) u = Unsqueeze(m, axis)
            t = Concat<axis = 0>(u, six) y = Reshape(x, t)
        }""",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Reshape"]
    assert target(outcome, "Reshape") == [-1, 6]


def test_two_unknown_dimensions_stay_computed(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[batch, tokens, 4] x) => (float[batch, tokens, 2, 2] y)
        <int64[1] zero = {0}, int64[1] two = {2}> {
            s = Shape(x) b = Slice(s, zero, two) t = Concat<axis = 0>(b, two, two) y = Reshape(x, t)
        }""",
    )
    assert outcome.edits == 0


@pytest.mark.parametrize("rest", ["0, 4", "-1, 2"])
def test_the_batch_beside_an_open_dimension_stays_computed(apply: Callable[..., Any], rest: str) -> None:
    """0 copies a dimension and -1 is open already: with the batch there would be two."""
    outcome = apply(
        fold_shapes,
        f"""g (float[batch, tokens, 4] x) => (float[a, b, c] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[2] rest = {{{rest}}}> {{
            s = Shape(x) b = Slice(s, zero, one) t = Concat<axis = 0>(b, rest) y = Reshape(x, t)
        }}""",
    )
    assert outcome.edits == 0


def test_an_expand_over_the_batch_asks_for_one(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[batch, 1, 4] x) => (float[batch, 3, 4] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[2] rest = {3, 4}> {
            s = Shape(x) b = Slice(s, zero, one) t = Concat<axis = 0>(b, rest) e = Expand(x, t) y = Neg(e)
        }""",
    )
    assert outcome.edits == 1
    assert target(outcome, "Expand") == [1, 3, 4]


def test_an_expand_of_a_constant_to_the_batch_stays_computed(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        """g (float[batch, 4] x) => (float[batch, 4] y) <float[1, 4] row = {1, 2, 3, 4}>
        { s = Shape(x) e = Expand(row, s) y = Add(x, e) }""",
    )
    assert outcome.edits == 0


def test_shapes_that_are_outputs_stay_computed(apply: Callable[..., Any]) -> None:
    outcome = apply(fold_shapes, "g (float[2, 6] x) => (int64[2] y) { y = Shape(x) }")
    assert outcome.edits == 0


def test_a_shape_that_comes_in_from_outside_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_shapes,
        "g (float[1, 1] x, int64[2] s) => (float[a, b] y) { t = Add(s, s) u = Neg(x) y = Expand(u, t) }",
    )
    assert outcome.edits == 0
