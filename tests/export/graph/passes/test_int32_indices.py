from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from structsam_export.graph.passes import int32_indices, run_passes

INDEXED = {
    "Gather": "g (float[4, 3] x) => (float[2, 3] y) <int64[2] i = {1, -1}> { y = Gather(x, i) }",
    "GatherElements": """g (float[4, 3] x) => (float[1, 3] y) <int64[1, 3] i = {3, 0, -2}>
        { y = GatherElements(x, i) }""",
    "ScatterElements": """g (float[4, 3] x, float[1, 3] u) => (float[4, 3] y) <int64[1, 3] i = {3, 0, -2}>
        { y = ScatterElements(x, i, u) }""",
}


@pytest.mark.parametrize("op", INDEXED)
def test_a_constant_index_becomes_int32(apply: Callable[..., Any], op: str) -> None:
    outcome = apply(int32_indices, INDEXED[op])
    assert outcome.edits == 1
    (index,) = outcome.constants.values()
    assert index.dtype == np.int32


def test_other_readers_keep_the_int64_constant(apply: Callable[..., Any]) -> None:
    outcome = apply(
        int32_indices,
        """g (float[4, 3] x, int64[2] z) => (float[2, 3] y, float[2, 3] w, int64[2] v)
        <int64[2] i = {1, 3}> { y = Gather(x, i) w = Gather(x, i) v = Add(z, i) }""",
    )
    assert outcome.edits == 2
    assert sorted(str(values.dtype) for values in outcome.constants.values()) == ["int32", "int64"]


def test_an_index_cast_from_int32_is_read_before_the_cast(apply: Callable[..., Any]) -> None:
    outcome = apply(
        int32_indices,
        """g (float[4, 3] x, int32[2] i) => (float[2, 3] y) { j = Cast<to = 7>(i) y = Gather(x, j) }""",
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Gather"]


def test_an_index_cast_from_int64_is_read_before_the_cast(apply: Callable[..., Any]) -> None:
    """Where nothing else reads it."""
    outcome = apply(
        int32_indices,
        """g (float[2, 3] x, int64[1, 3] i) => (float[1, 3] y, float[1, 3, 3] z)
        { j = Cast<to = 6>(i) y = GatherElements(x, j) z = Gather(x, j) }""",
    )
    assert outcome.edits == 2
    assert sorted(outcome.ops) == ["Gather", "GatherElements"]


@pytest.mark.parametrize(
    "text",
    [
        # ONNX demands int64 here.
        "g (float[4, 3] x) => (float[3] y) <int64[1] i = {1}> { y = GatherND(x, i) }",
        """g (float[4, 3] x, float[1, 3] u) => (float[4, 3] y) <int64[1, 1] i = {1}>
        { y = ScatterND(x, i, u) }""",
        "g (float[4, 3] x) => (float[3, 4] y) <int64[2] s = {3, 4}> { y = Reshape(x, s) }",
        "g (float[4, 3] x) => (float[4, 2] y, int64[4, 2] z) <int64[1] k = {2}> { y, z = TopK(x, k) }",
        # A cast that narrows and is read as a number too; one from floats; an index computed in int64.
        "g (float[4, 3] x, int64[2] i) => (float[2, 3] y, int32[2] k) "
        "{ j = Cast<to = 6>(i) y = Gather(x, j) k = Neg(j) }",
        "g (float[4, 3] x, float[2] i) => (float[2, 3] y) { a = Abs(i) b = Cast<to = 9>(a) "
        "j = Cast<to = 7>(b) y = Gather(x, j) }",
        "g (float[4, 3] x, int64[2] i) => (float[2, 3] y) { j = Abs(i) y = Gather(x, j) }",
    ],
)
def test_everything_else_stays(apply: Callable[..., Any], text: str) -> None:
    assert apply(int32_indices, text).edits == 0


def test_an_index_out_of_range_stays(model_of: Callable[..., Any]) -> None:
    model = model_of("g (float[4, 3] x) => (float[1, 3] y) <int64[1] i = {4294967297}> { y = Gather(x, i) }")
    assert run_passes(model, [int32_indices])[1] == {"int32_indices": 0}
