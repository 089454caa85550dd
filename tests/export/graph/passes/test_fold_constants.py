from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from structsam_export.graph.passes import fold_constants, run_passes
from structsam_export.graph.passes.fold_constants import MAX_GROWTH

ENOUGH = MAX_GROWTH // 4  # float32 elements that may just be added


def test_arithmetic_on_constants_folds_to_its_value(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_constants,
        """g (float[2] x) => (float[2] y) <float[2] a = {1.5, -2.0}, float[2] b = {0.1, 0.2}>
        { c = Mul(a, b) d = Sqrt(b) e = Add(c, d) y = Add(x, e) }""",
    )
    assert outcome.edits == 3
    assert outcome.ops == ["Add"]


@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [
        ("value = float16[1] {2}", np.float16),
        ("value_float = 0.1", np.float32),
        ("value_floats = [0.1, 0.2]", np.float32),
        ("value_int = 3", np.int64),
        ("value_ints = [1, 2]", np.int64),
    ],
)
def test_constant_nodes_become_initializers_of_their_type(
    apply: Callable[..., Any], attribute: str, dtype: type[np.generic]
) -> None:
    kind = {np.float16: "float16", np.float32: "float", np.int64: "int64"}[dtype]
    outcome = apply(
        fold_constants, f"g ({kind}[2] x) => ({kind}[2] y) {{ c = Constant<{attribute}>() y = Add(x, c) }}"
    )
    assert outcome.edits == 1
    (constant,) = outcome.constants.values()
    assert constant.dtype == dtype


def test_every_output_of_a_folded_node_is_a_constant(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_constants,
        """g (float[2] x) => (float[2] y) <float[4] c = {1, 2, 3, 4}, int64[2] sizes = {2, 2}>
        { a, b = Split(c, sizes) d = Add(x, a) y = Mul(d, b) }""",
    )
    assert outcome.ops == ["Add", "Mul"]


@pytest.mark.parametrize(("size", "folds"), [(ENOUGH, True), (ENOUGH + 4, False)])
def test_growth_decides(apply: Callable[..., Any], size: int, folds: bool) -> None:
    """Expand frees its two constants, 4 + 8 bytes: room for three more elements, not for four."""
    outcome = apply(
        fold_constants,
        f"""g (float[{size}] x) => (float[{size}] y) <float[1] c = {{1}}, int64[1] shape = {{{size}}}>
        {{ wide = Expand(c, shape) y = Add(x, wide) }}""",
    )
    assert outcome.edits == int(folds)


@pytest.mark.parametrize(("second", "folds"), [("t", True), ("w", False)])
def test_a_large_weight_folds_where_it_does_not_stay_beside(
    model_of: Callable[..., Any], same: Callable[..., None], second: str, folds: bool
) -> None:
    """Transposed it is as large as before; but if it is read as it is too, it would be there twice."""
    side = 200  # 160 kB, more than the growth allowed
    before = model_of(
        f"""g (float[{side}, {side}] x) => (float[{side}, {side}] y)
        {{ t = Transpose(w) a = Add(x, t) y = Mul(a, {second}) }}"""
    )
    weight = np.arange(side**2, dtype=np.float32).reshape(side, side)
    before.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    after, edits = run_passes(before, [fold_constants])
    same(before, after)
    assert edits["fold_constants"] == int(folds)


def test_random_numbers_and_quantisation_stay(model_of: Callable[..., Any]) -> None:
    model = model_of(
        """g (float[2] x) => (float[2] y) <float[2] c = {1, 2}, float scale = {0.1}, int8 zero = {0}>
        { r = RandomNormalLike(c) q = QuantizeLinear(c, scale, zero)
          d = DequantizeLinear(q, scale, zero) s = Add(r, d) y = Add(x, s) }"""
    )
    assert run_passes(model, [fold_constants])[1] == {"fold_constants": 0}


def test_a_graph_output_stays_computed(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_constants,
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] c = {1, 2}> { z = Neg(c) y = Add(x, z) }",
    )
    assert outcome.edits == 0


def test_what_depends_on_an_input_stays(apply: Callable[..., Any]) -> None:
    outcome = apply(
        fold_constants, "g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { a = Add(x, c) y = Neg(a) }"
    )
    assert outcome.edits == 0


def test_a_type_without_a_kernel_stays(model_of: Callable[..., Any]) -> None:
    model = model_of(
        """g (bfloat16[2] x) => (bfloat16[2] y) <float[2] c = {1, 2}>
        { a = Cast<to = 16>(c) b = Neg(a) y = Add(x, b) }"""
    )
    after, _ = run_passes(model, [fold_constants])
    assert "Neg" in [node.op_type for node in after.graph.node]


def test_warnings_about_missing_kernels_are_silenced(
    apply: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """It multiplies float16 by casting, and says so in its log."""
    outcome = apply(
        fold_constants,
        "g (float16[2] x) => (float16[2] y) <float16[2] a = {1, 2}, float16[2] b = {3, 4}> "
        "{ c = Mul(a, b) y = Add(x, c) }",
    )
    assert outcome.ops == ["Add"]
    assert capfd.readouterr() == ("", "")
