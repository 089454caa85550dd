from collections.abc import Callable
from typing import Any

import pytest

from structsam_export.graph.passes import drop_casts

FLOAT, INT32, INT64, FLOAT16 = 1, 6, 7, 10


def chain(source: str, first: int, second: int, result: str) -> str:
    return (
        f"g ({source}[2, 3] x) => ({result}[2, 3] y)"
        f"{{ a = Identity(x) b = Cast<to = {first}>(a) c = Cast<to = {second}>(b) y = Identity(c) }}"
    )


def test_a_cast_to_the_same_type_goes(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_casts, "g (float[2] x) => (float[2] y) { a = Relu(x) b = Cast<to = 1>(a) y = Neg(b) }"
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


def test_a_cast_like_a_tensor_of_the_same_type_goes(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_casts, "g (float[2] x, float[1] t) => (float[2] y) { a = Relu(x) b = CastLike(a, t) y = Neg(b) }"
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Relu", "Neg"]


def test_a_cast_like_a_tensor_of_another_type_is_a_cast(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_casts, "g (int32[2] x, float[1] t) => (float[2] y) { a = Neg(t) b = CastLike(x, a) y = Neg(b) }"
    )
    assert outcome.edits == 1
    assert outcome.ops == ["Cast", "Neg"]


@pytest.mark.parametrize(
    ("source", "wide"), [("int32", INT64), ("float16", FLOAT), ("bool", INT32), ("bool", FLOAT)]
)
def test_widening_and_coming_back_is_nothing(apply: Callable[..., Any], source: str, wide: int) -> None:
    narrow = {"int32": INT32, "float16": FLOAT16, "bool": 9}[source]
    outcome = apply(drop_casts, chain(source, wide, narrow, source))
    assert outcome.edits == 1
    assert outcome.ops == ["Identity", "Identity"]


def test_widening_and_going_on_is_one_cast(apply: Callable[..., Any]) -> None:
    outcome = apply(drop_casts, chain("int32", INT64, FLOAT, "float"))
    assert outcome.edits == 1
    assert outcome.ops == ["Identity", "Cast", "Identity"]


@pytest.mark.parametrize(
    ("source", "first", "second", "result"),
    [
        ("float", FLOAT16, FLOAT, "float"),  # rounds: where precision was decided
        ("int64", INT32, INT64, "int64"),  # wraps
        ("float", INT32, FLOAT, "float"),  # truncates
        ("int32", FLOAT, INT32, "int32"),  # fp32 has 24 bits for an integer's 32
    ],
)
def test_a_pair_that_loses_something_stays(
    apply: Callable[..., Any], source: str, first: int, second: int, result: str
) -> None:
    outcome = apply(drop_casts, chain(source, first, second, result))
    assert outcome.edits == 0
    assert outcome.ops == ["Identity", "Cast", "Cast", "Identity"]


def test_a_wide_value_that_is_used_stays_for_its_reader(apply: Callable[..., Any]) -> None:
    outcome = apply(
        drop_casts,
        """g (int32[2] x) => (int32[2] y, int64[2] z) {
            a = Identity(x) b = Cast<to = 7>(a) c = Cast<to = 6>(b) y = Neg(c) z = Neg(b)
        }""",
    )
    assert outcome.edits == 1
    assert sorted(outcome.ops) == ["Cast", "Identity", "Neg", "Neg"]


def test_a_pair_from_input_to_output_settles(apply: Callable[..., Any]) -> None:
    outcome = apply(drop_casts, "g (int32[2] x) => (int32[2] y) { b = Cast<to = 7>(x) y = Cast<to = 6>(b) }")
    assert outcome.ops == ["Cast"]  # a copy, which gives the output its name
