from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_gathers


def test_a_gather_of_all_rows_in_order_is_removed(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_gathers,
        "g (float[3, 2] x) => (float[3, 2] y) <int32[3] i = {0, 1, 2}> "
        "{ a = Relu(x) b = Gather(a, i) y = Neg(b) }",
    )
    assert outcome.ops == ["Relu", "Neg"]


def test_a_lookup_in_an_index_range_is_its_index(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_gathers,
        "g (int32[2, 4] x) => (int32[2, 4] y) <int32[2, 3] n = {0, 1, 2, 0, 1, 2}> "
        "{ a = Abs(x) b = GatherElements<axis = 1>(n, a) y = Neg(b) }",
    )
    assert outcome.ops == ["Abs", "Neg"]


@pytest.mark.parametrize(
    "text",
    [
        # Another order; not all; another axis; an index of two dimensions; another type.
        "g (float[3, 2] x) => (float[3, 2] y) <int32[3] i = {0, 2, 1}> { y = Gather(x, i) }",
        "g (float[3, 2] x) => (float[2, 2] y) <int32[2] i = {0, 1}> { y = Gather(x, i) }",
        "g (float[3, 2] x) => (float[3, 2] y) <int32[2] i = {0, 1}> { y = Gather<axis = 1>(x, i) }",
        "g (float[2] x) => (float[1, 2] y) <int32[1, 2] i = {0, 1}> { y = Gather(x, i) }",
        "g (int64[1, 2] x) => (int32[1, 2] y) <int32[1, 3] n = {0, 1, 2}> "
        "{ y = GatherElements<axis = 1>(n, x) }",
        "g (int32[1, 2] x) => (int32[1, 2] y) <int32[1, 3] n = {0, 2, 1}> "
        "{ y = GatherElements<axis = 1>(n, x) }",
    ],
)
def test_any_other_gather_stays(apply: Callable[..., Any], text: str) -> None:
    assert apply(drop_gathers, text).edits == 0
