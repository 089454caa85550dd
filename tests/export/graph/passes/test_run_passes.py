from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from structsam_export.graph import passes
from structsam_export.graph.passes import MAX_ROUNDS, PASSES, run_passes

# A view of a view by a computed shape, and a gather of everything, in an index that is computed too.
TEXT = """g (float[4, 6] x) => (float[24] y)
<int64[1] size = {24}, int64[1] one = {1}, int64[3] parts = {4, 2, 3}, int64[24] order =
 {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}> {
    s = Mul(size, one) v = Reshape(x, parts) w = Reshape(v, s)
    i = Mul(order, one) t = Gather(w, i) y = Neg(t)
}"""


def test_rules_work_together_until_nothing_is_left(
    model_of: Callable[..., Any], same: Callable[..., None]
) -> None:
    before = model_of(TEXT)
    after, edits = run_passes(before)
    same(before, after)
    assert [node.op_type for node in after.graph.node] == ["Reshape", "Neg"]
    found = {"fold_constants": 2, "int32_indices": 1, "drop_gathers": 1, "drop_reshapes": 1}
    assert edits == {rule.__name__: found.get(rule.__name__, 0) for rule in PASSES}


def test_a_second_run_finds_nothing(model_of: Callable[..., Any]) -> None:
    once, _ = run_passes(model_of(TEXT))
    twice, edits = run_passes(once)
    assert set(edits.values()) == {0}
    assert twice == once


def test_what_surrounds_the_graph_stays(model_of: Callable[..., Any]) -> None:
    before = model_of(TEXT)
    before.producer_name, before.domain, before.model_version = "tracer", "structsam", 7
    before.metadata_props.add(key="rate", value="0.55")
    reference = onnx.ModelProto()
    reference.CopyFrom(before)
    after, _ = run_passes(before)
    assert before == reference
    for field in ("ir_version", "opset_import", "producer_name", "domain", "model_version", "metadata_props"):
        assert getattr(after, field) == getattr(before, field)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output


def test_an_input_that_nothing_reads_stays(model_of: Callable[..., Any]) -> None:
    after, _ = run_passes(model_of("g (float[2] x, float[2] unused) => (float[2] y) { y = Neg(x) }"))
    assert [info.name for info in after.graph.input] == ["x", "unused"]


def test_rules_that_do_not_settle_are_an_error(model_of: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=f"did not settle in {MAX_ROUNDS} rounds"):
        run_passes(model_of(TEXT), [_restless])


def test_a_name_that_two_nodes_compute_is_an_error(model_of: Callable[..., Any]) -> None:
    model = model_of("g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Neg(b) }")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "y"
    with pytest.raises(ValueError, match="computes 'y' more than once"):
        run_passes(model)


def test_a_long_chain_is_no_problem(model_of: Callable[..., Any]) -> None:
    """Deeper than Python's recursion limit, as an encoder of 32 blocks is."""
    links = " ".join(f"a{index + 1} = Neg(a{index})" for index in range(3000))
    after, _ = run_passes(model_of(f"g (float[2] a0) => (float[2] a3000) {{ {links} }}"))
    assert len(after.graph.node) == 3000


def _restless(graph: object) -> int:
    return 1


def test_every_rule_is_listed() -> None:
    folder = Path(passes.__file__).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "rewire", "shapes"}
    assert {rule.__name__ for rule in PASSES} == names


def test_nothing_is_printed(model_of: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    run_passes(model_of("g (bfloat16[2] x) => (bfloat16[2] y) <bfloat16[2] c = {1, 2}> { y = Add(x, c) }"))
    assert capfd.readouterr() == ("", "")
