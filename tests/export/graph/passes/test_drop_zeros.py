from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_zeros


@pytest.mark.parametrize("terms", ["a, z", "z, a"])
def test_adding_zero_to_integers_is_removed(apply: Callable[..., Any], terms: str) -> None:
    outcome = apply(
        drop_zeros,
        f"""g (int32[2, 3] x) => (int32[2, 3] y) <int32[1, 1] z = {{0}}>
        {{ a = Abs(x) b = Add({terms}) y = Neg(b) }}""",
    )
    assert outcome.ops == ["Abs", "Neg"]


@pytest.mark.parametrize(
    "text",
    [
        # A zero that broadcasts; something; floating point, where -0 + 0 is 0.
        "g (int32[3] x) => (int32[2, 3] y) <int32[2, 1] z = {0, 0}> { a = Abs(x) y = Add(a, z) }",
        "g (int32[2] x) => (int32[2] y) <int32[2] z = {0, 1}> { a = Abs(x) y = Add(a, z) }",
        "g (float[2] x) => (float[2] y) <float[1] z = {0}> { a = Abs(x) y = Add(a, z) }",
    ],
)
def test_any_other_addition_stays(apply: Callable[..., Any], text: str) -> None:
    assert apply(drop_zeros, text).edits == 0
