from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_transposes


def chain(first: str, second: str) -> str:
    return f"""g (float[2, 3, 4] x) => (float[a, b, c] y) {{
        p = Relu(x) q = Transpose<perm = {first}>(p) r = Transpose<perm = {second}>(q) y = Neg(r)
    }}"""


def test_a_transpose_that_keeps_the_order_goes(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_transposes,
        "g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) b = Transpose<perm = [0, 1]>(a) y = Neg(b) }",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


@pytest.mark.parametrize(("first", "second"), [("[2, 0, 1]", "[1, 2, 0]"), ("[0, 2, 1]", "[0, 2, 1]")])
def test_two_that_undo_each_other_go(apply: Callable[..., Any], first: str, second: str) -> None:
    outcome = apply(drop_transposes, chain(first, second))
    assert outcome.ops == ["Relu", "Neg"]


def test_two_without_an_order_undo_each_other(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_transposes,
        """g (float[2, 3, 4] x) => (float[2, 3, 4] y) {
            a = Relu(x) b = Transpose(a) c = Transpose(b) y = Neg(c)
        }""",
    )
    assert outcome.ops == ["Relu", "Neg"]


@pytest.mark.parametrize(("first", "second"), [("[2, 0, 1]", "[2, 0, 1]"), ("[0, 2, 1]", "[1, 0, 2]")])
def test_any_other_two_become_one(apply: Callable[..., Any], first: str, second: str) -> None:
    outcome = apply(drop_transposes, chain(first, second))
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Transpose", "Neg"]


def test_two_stay_when_the_first_is_read_elsewhere(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_transposes,
        """g (float[2, 3, 4] x) => (float[4, 2, 3] q, float[3, 4, 2] y) {
            q = Transpose<perm = [2, 0, 1]>(x) y = Transpose<perm = [2, 0, 1]>(q)
        }""",
    )
    assert outcome.edits == 0
    assert outcome.ops == ["Transpose", "Transpose"]


def test_one_that_moves_something_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(drop_transposes, "g (float[2, 3] x) => (float[3, 2] y) { y = Transpose(x) }")
    assert outcome.edits == 0
