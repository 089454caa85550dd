from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import smallest_first


def topk(outputs: str, largest: int = 1) -> str:
    return f"""g (float[2, 5] x) => ({outputs}) <int64[1] k = {{3}}> {{
        n = Neg(x) y, z = TopK<axis = 1, largest = {largest}>(n, k)
    }}"""


@pytest.mark.parametrize("largest", [0, 1])
def test_indices_of_negated_scores_need_no_negation(apply: Callable[..., Any], largest: int) -> None:
    outcome = apply(smallest_first, topk("int64[2, 3] z", largest))
    assert outcome.edits == 1
    assert outcome.ops == ["TopK"]


def test_values_that_are_read_keep_it(apply: Callable[..., Any]) -> None:
    assert apply(smallest_first, topk("float[2, 3] y, int64[2, 3] z")).edits == 0
