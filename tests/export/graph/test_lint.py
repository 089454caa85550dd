from collections.abc import Callable
from typing import Any

import onnx
import onnx.defs
import onnx.helper
import pytest

from structsam_export.graph.lint import DATA_DEPENDENT, MAX_ELEMENTS, SINCE, SUPPORTED, Finding, lint

ModelOf = Callable[..., onnx.ModelProto]

SCATTER = """g (float[4, 3] x, float[1, 3] u) => (float[4, 3] y) <int32[1, 3] i = {{3, 0, 2}}>
    {{ y = ScatterElements<reduction = "{}">(x, i, u) }}"""
SCATTER_ND = """g (float[4, 3] x, float[1, 3] u) => (float[4, 3] y) <int64[1, 1] i = {{1}}>
    {{ y = ScatterND<reduction = "{}">(x, i, u) }}"""
TOP_K = """g (float[2, {0}] x) => (float[2, {1}] y, int64[2, {1}] z) <int64[1] k = {{{1}}}>
    {{ y, z = TopK<sorted = {2}>(x, k) }}"""
RESIZE = """g (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y) <float[4] scales = {{1, 1, 2, 2}}>
    {{ y = Resize<mode = "{}", antialias = {}>(x, , scales) }}"""
ATTENTION = """g (float[{0}] q, float[{0}] k, float[{1}] v) => (float[{2}] y)
    {{ y = Attention{3}(q, k, v) }}"""
PACKED = ATTENTION.format("1, 6, 64", "1, 6, 64", "1, 6, 64", "<q_num_heads = 2, kv_num_heads = 2>")
HEADS = ATTENTION.format("1, 2, 6, 32", "1, 2, 6, 32", "1, 2, 6, 32", "")
NARROW_V = ATTENTION.format("1, 2, 6, 32", "1, 2, 6, 8", "1, 2, 6, 8", "")
GATHER = "g (float[4, 3] x, {}[2] i) => (float[2, 3] y) {{ y = Gather(x, i) }}"
UNARY = "g ({0} x) => ({0} y) {{ y = {1}(x) }}"

CASES = [
    # rule, severity, a model it reports, the nearest model it does not
    ("type", "error", UNARY.format("double[2]", "Abs"), UNARY.format("float[2]", "Abs")),
    ("type", "error", UNARY.format("uint16[2]", "Abs"), UNARY.format("uint8[2]", "Abs")),
    (
        "rank",
        "error",
        UNARY.format("float[1,1,1,1,1,1,1,1,2]", "Neg"),
        UNARY.format("float[1,1,1,1,1,1,1,2]", "Neg"),
    ),
    (
        "elements",
        "error",
        UNARY.format(f"float[{MAX_ELEMENTS + 1}]", "Neg"),
        UNARY.format(f"float[batch, {MAX_ELEMENTS}]", "Neg"),
    ),
    ("operator", "error", UNARY.format("float[2, 2]", "Det"), UNARY.format("float[2, 2]", "Erf")),
    (
        "data-dependent",
        "error",
        "g (float[4] x) => (int64[1, n] y) { y = NonZero(x) }",
        UNARY.format("float[4]", "Not"),
    ),
    ("top-k", "error", TOP_K.format(4096, 3841, 1), TOP_K.format(4096, 3840, 1)),
    ("top-k", "error", TOP_K.format(8, 2, 0), TOP_K.format(8, 2, 1)),
    (
        "top-k",
        "error",
        "g (float[8] x, int64[1] n) => (float[m] y, int64[m] z) { k = Neg(n) y, z = TopK(x, k) }",
        "g (float[8] x) => (float[2] y, int64[2] z) { k = Constant<value_ints = [2]>() y, z = TopK(x, k) }",
    ),
    ("scatter", "error", SCATTER.format("add"), SCATTER.format("none")),
    ("scatter", "error", SCATTER_ND.format("max"), SCATTER_ND.format("none")),
    ("resize", "error", RESIZE.format("cubic", 0), RESIZE.format("linear", 0)),
    ("resize", "error", RESIZE.format("linear", 1), RESIZE.format("nearest", 0)),
    ("attention", "error", PACKED, HEADS),
    ("attention", "error", NARROW_V, HEADS),
    (
        "einsum",
        "warning",
        'g (float[2, 3] x) => (float[3, 2] y) { y = Einsum<equation = "ij->ji">(x) }',
        "g (float[2, 3] x) => (float[3, 2] y) { y = Transpose(x) }",
    ),
    ("int64-index", "warning", GATHER.format("int64"), GATHER.format("int32")),
]


@pytest.mark.parametrize(("rule", "severity", "refused", "taken"), CASES)
def test_a_rule_reports_its_model_and_not_the_one_beside_it(
    model_of: ModelOf, rule: str, severity: str, refused: str, taken: str
) -> None:
    found = [finding for finding in lint(model_of(refused, 23)) if finding.rule == rule]
    assert found
    assert {finding.severity for finding in found} == {severity}
    assert all("\n" not in str(finding) for finding in found)
    assert rule not in {finding.rule for finding in lint(model_of(taken, 23))}


def test_an_operator_of_another_domain_needs_a_plugin() -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    node = onnx.helper.make_node("Merge", ["x"], ["y"], domain="structsam", name="merge")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    (finding,) = lint(onnx.helper.make_model(graph))
    assert (finding.rule, finding.node, finding.severity) == ("domain", "merge", "error")


def test_nodes_inside_a_subgraph_are_read(model_of: ModelOf) -> None:
    model = model_of(
        """g (bool c, float[2, 2] x) => (float y) {
            y = If(c) <then_branch = t () => (float a) { a = Det(x) },
                       else_branch = e () => (float b) { b = Det(x) }>
        }"""
    )
    assert [finding.op for finding in lint(model)] == ["If", "Det", "Det"]


@pytest.mark.parametrize(("target", "errors"), [("10.3", 1), ("10.14", 0), ("11.4.1", 0), (None, 0)])
def test_attention_needs_a_target_that_has_it(model_of: ModelOf, target: str | None, errors: int) -> None:
    found = [finding for finding in lint(model_of(HEADS, 23), target) if finding.rule == "version"]
    assert len(found) == errors


def test_an_index_beyond_int32_is_not_asked_to_be_int32(model_of: ModelOf) -> None:
    text = "g (float[4, 3] x) => (float[1, 3] y) <int64[1] i = {{{}}}> {{ y = Gather(x, i) }}"
    assert lint(model_of(text.format(2**31 - 1)))[0].rule == "int64-index"
    assert lint(model_of(text.format(2**31))) == []


def test_a_message_says_what_was_found_what_is_supported_and_what_to_do(model_of: ModelOf) -> None:
    assert lint(model_of(TOP_K.format(4096, 4000, 1))) == [
        Finding(
            rule="top-k",
            node="y",
            op="TopK",
            message="has k = 4000; TensorRT takes at most 3840: select the elements that are left out, "
            "or select in two stages",
        )
    ]


def test_the_operators_are_those_of_tensorrts_own_parser() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert [name for name in sorted({*SUPPORTED, *SINCE}) if not parser.supports_operator(name)] == []
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    refused = {name for name in standard if not parser.supports_operator(name)}
    assert not refused & {*SUPPORTED, *SINCE}
    assert not DATA_DEPENDENT & SUPPORTED
