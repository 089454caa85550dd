from collections.abc import Callable
from typing import Any

from structsam_export.graph.passes import share_constants


def test_equal_constants_are_one(apply: Callable[..., Any]) -> None:
    outcome = apply(
        share_constants,
        "g (float[3, 2] x) => (float[2, 2] y, float[2, 2] w) <int32[2] i = {2, 0}, int32[2] j = {2, 0}> "
        "{ y = Gather(x, i) w = Gather(x, j) }",
    )
    assert outcome.edits == 1
    assert len(outcome.constants) == 1


def test_those_that_differ_in_anything_stay(apply: Callable[..., Any]) -> None:
    """In a value behind many equal ones, in type, in shape, in the sign of a zero."""
    zeros = ", ".join(["0"] * 299)
    outcome = apply(
        share_constants,
        f"""g (float[300] x, float[2] v, int32[2] n, int64[2] m)
        => (float[300] y, float[300] w, float[2] a, float[1, 2] b, float[2] c, int32[2] d, int64[2] e)
        <float[300] i = {{{zeros}, 1}}, float[300] j = {{{zeros}, 2}}, float[2] k = {{0, 0}},
        float[1, 2] l = {{0, 0}}, float[2] o = {{0, -0.0}}, int32[2] p = {{1, 1}}, int64[2] q = {{1, 1}}> {{
            y = Add(x, i) w = Add(x, j) a = Add(v, k) b = Add(v, l) c = Mul(v, o) d = Add(n, p) e = Add(m, q)
        }}""",
    )
    assert outcome.edits == 0
    assert len(outcome.constants) == 7
