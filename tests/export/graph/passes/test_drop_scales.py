from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_scales


def ordered(factor: str, rest: str, outputs: str = "int64[1] y") -> str:
    return f"""g (float[6] x) => ({outputs})
    <float f = {{{factor}}}, float[1] z = {{0}}, int32[2, 3] i = {{6, 5, 4, 3, 2, 1}}, int64[1] k = {{2}}> {{
        a = Abs(x) m = Mul(a, f) {rest}
    }}"""


CELLS = "p = Concat<axis = 0>(z, m) c = Gather(p, i) "


@pytest.mark.parametrize(
    ("rest", "outputs"),
    [
        ("y = ArgMin<axis = 0>(m)", "int64[1] y"),
        (CELLS + "y = ArgMax<axis = 1, keepdims = 0>(c)", "int64[2] y"),
        (CELLS + "e = ReduceMax<keepdims = 0>(c, o) v, y = TopK<axis = 0>(e, k)", "int64[2] y"),
    ],
)
def test_a_factor_is_removed_if_only_the_order_is_used(
    apply: Callable[..., Any], rest: str, outputs: str
) -> None:
    text = ordered("2", rest, outputs).replace("int64[1] k = {2}", "int64[1] k = {2}, int64[1] o = {1}")
    outcome = apply(drop_scales, text)
    assert outcome.edits == 1
    assert "Mul" not in outcome.ops


@pytest.mark.parametrize(
    "text",
    [
        # No power of two, negative; a value that is read, an output, or an index; beside something else.
        ordered("3", "y = ArgMin<axis = 0>(m)"),
        ordered("-2", "y = ArgMin<axis = 0>(m)"),
        ordered("2", "v, y = TopK<axis = 0>(m, k)", "float[2] v, int64[2] y"),
        ordered("2", "y = ArgMin<axis = 0>(m)", "int64[1] y, float[6] m"),
        ordered("2", "s = Sqrt(m) y = ArgMin<axis = 0>(s)"),
        ordered("2", "s = Concat<axis = 0>(m, x) y = ArgMin<axis = 0>(s)"),
    ],
)
def test_any_other_product_stays(apply: Callable[..., Any], text: str) -> None:
    assert apply(drop_scales, text).edits == 0
