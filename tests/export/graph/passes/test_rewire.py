"""What every rule leaves alone: the names of outputs, and nodes that compute them from nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_reshapes

SAME = "<int64[2] shape = {2, 12}>"


@pytest.mark.parametrize(
    ("outputs", "rest", "left"),
    [("float[2, 12] y", "", ["Relu"]), ("float[2, 12] y, float[2, 12] z", "z = Neg(a)", ["Neg", "Relu"])],
)
def test_an_output_is_computed_by_what_computed_the_input(
    apply: Callable[..., Any], outputs: str, rest: str, left: list[str]
) -> None:
    """Under its name, and for other readers too."""
    outcome = apply(
        drop_reshapes,
        f"g (float[2, 12] x) => ({outputs}) {SAME} {{ a = Relu(x) y = Reshape(a, shape) {rest} }}",
    )
    assert outcome.edits == 1
    assert sorted(outcome.ops) == left


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        ("float[2, 12] y", "y = Reshape(x, shape)"),  # no node computes x
        ("float[2, 12] y, float[2, 12] z", "z = Relu(x) y = Reshape(z, shape)"),  # z is a name to keep
    ],
)
def test_an_output_that_nothing_else_can_compute_keeps_its_node(
    apply: Callable[..., Any], outputs: str, nodes: str
) -> None:
    outcome = apply(drop_reshapes, f"g (float[2, 12] x) => ({outputs}) {SAME} {{ {nodes} }}")
    assert outcome.edits == 0


def test_a_shape_that_is_computed_is_not_known(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_reshapes,
        """g (float[2, 12] x, float[4, 6] u) => (float[m, n] y) <int64[1] flat = {-1}>
        { a = Reshape(x, flat) s = Shape(u) y = Reshape(a, s) }""",
    )
    assert outcome.edits == 0
