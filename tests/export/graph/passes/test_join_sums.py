from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import join_sums


def test_a_chain_is_one_sum(apply: Callable[..., Any]) -> None:
    outcome = apply(
        join_sums,
        """g (float[2, 3] a, float[2, 3] b, float[2, 3] c, float[2, 3] d) => (float[2, 3] y) {
            e = Add(a, b) f = Add(e, c) y = Add(f, d)
        }""",
    )
    assert outcome.ops == ["Sum"]
    assert len(outcome.model.graph.node[0].input) == 4


@pytest.mark.parametrize(
    "text",
    [
        # Another reader; a term that is broadcast; whole numbers; the inner sum on the right.
        """g (float[2, 3] a, float[2, 3] b) => (float[2, 3] e, float[2, 3] y)
        { e = Add(a, b) y = Add(e, b) }""",
        "g (float[2, 3] a, float[3] b, float[2, 3] c) => (float[2, 3] y) { e = Add(a, b) y = Add(e, c) }",
        "g (int32[3] a, int32[3] b, int32[3] c) => (int32[3] y) { e = Add(a, b) y = Add(e, c) }",
        "g (float[3] a, float[3] b, float[3] c) => (float[3] y) { e = Add(a, b) y = Add(c, e) }",
    ],
)
def test_any_other_stays(apply: Callable[..., Any], text: str) -> None:
    assert apply(join_sums, text).edits == 0
