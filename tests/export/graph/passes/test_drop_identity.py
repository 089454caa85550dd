from collections.abc import Callable
from typing import Any

from structsam_export.graph.passes import drop_identity


def test_identity_between_nodes_goes(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_identity,
        "g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) b = Identity(a) y = Neg(b) }",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


def test_an_output_keeps_its_name_when_its_identity_goes(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_identity,
        "g (float[2] x) => (float[2] y, float[2] z) { a = Relu(x) y = Identity(a) z = Neg(a) }",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


def test_an_identity_that_only_names_an_output_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(drop_identity, "g (float[2] x) => (float[2] y) { y = Identity(x) }")
    assert outcome.edits == 0


def test_an_identity_between_two_outputs_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_identity, "g (float[2] x) => (float[2] a, float[2] y) { a = Relu(x) y = Identity(a) }"
    )
    assert outcome.edits == 0
    assert outcome.ops == ["Relu", "Identity"]
