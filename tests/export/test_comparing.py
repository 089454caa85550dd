"""What verification compares by: PyTorch as a runner, a tap into a graph, and Polygraphy over both."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from structsam_export.comparing import TappedOpenVino, TorchRunner, run_all, tapped
from structsam_runtime import OnnxRuntimeRunner, OpenVinoRunner, UserError
from structsam_runtime.errors import NotFiniteError
from structsam_runtime.runners.base import Runner, TensorSpec
from structsam_runtime.runners.tapped import TappedRunner

VALUES = TensorSpec(np.dtype(np.float32), ("n",))
ORDER = TensorSpec(np.dtype(np.int32), ("n",))


def ranked(x: Tensor) -> tuple[Tensor, Tensor]:
    """The reciprocals, and an order."""
    return 1 / x, x.argsort().int()


@pytest.fixture
def runner() -> TorchRunner:
    """Of `ranked`."""
    return TorchRunner(ranked, {"x": VALUES}, {"y": VALUES, "order": ORDER})


def test_a_module_of_pytorch_is_a_runner(runner: TorchRunner) -> None:
    x = np.array([4, 2], np.float32)
    with pytest.raises(UserError, match="PyTorch is not open"):
        runner.infer({"x": x})
    for _ in range(2):
        with runner:
            assert (runner.inputs, runner.outputs) == ({"x": VALUES}, {"y": VALUES, "order": ORDER})
            for outputs in (
                runner.infer({"x": x}),
                {name: kept.numpy() for name, kept in runner.infer_on_device({"x": x}).items()},
            ):
                assert {name: values.tolist() for name, values in outputs.items()} == {
                    "y": [0.25, 0.5],
                    "order": [1, 0],
                }
                assert {name: str(values.dtype) for name, values in outputs.items()} == {
                    "y": "float32",
                    "order": "int32",
                }
            with pytest.raises(UserError, match="input 'x' is float64, expected float32"):
                runner.infer({"x": x.astype(np.float64)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_pytorch_computes_in_half_precision_comes_as_its_spec_says(dtype: torch.dtype) -> None:
    with TorchRunner(lambda x: x.to(dtype) / 3, {"x": VALUES}, {"y": VALUES}) as runner:
        kept = runner.infer_on_device({"x": np.ones(1, np.float32)})["y"]
        assert (kept.dtype, kept.shape) == (np.float32, (1,))
        assert kept.numpy().dtype == np.float32
        assert kept.numpy()[0] == torch.tensor(1 / 3).to(dtype).item()


def test_every_feed_is_run_and_the_runner_closed(runner: TorchRunner) -> None:
    feeds = [{"x": np.array(values, np.float32)} for values in ([1, 2], [4, 2, 8])]
    first, second = run_all(runner, feeds)
    assert (first["y"].tolist(), first["order"].tolist()) == ([1, 0.5], [0, 1])
    assert (second["y"].tolist(), second["order"].tolist()) == ([0.25, 0.5, 0.125], [1, 0, 2])
    with pytest.raises(UserError, match="is not open"):
        runner.infer(feeds[0])


def test_values_that_are_not_finite_are_reported_by_runner_and_output(runner: TorchRunner) -> None:
    feeds = [{"x": np.array([value], np.float32)} for value in (1, 0)]
    with pytest.raises(NotFiniteError, match=r"^PyTorch returned NaN or infinity in y$"):
        run_all(runner, feeds)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A file that gives a weighted sum, whose largest term it knows inside; the weights lie beside it."""
    nodes = [
        helper.make_node("Mul", ["x", "weights"], ["terms"]),
        helper.make_node("ArgMax", ["terms"], ["long"], axis=0),
        helper.make_node("Cast", ["long"], ["largest"], to=TensorProto.INT32),
        helper.make_node("ReduceSum", ["terms"], ["y"]),
    ]
    weights = np.arange(1000, dtype=np.float32)
    made = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([7], np.int32), "constant"),  # as some plans are
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "sum.onnx"
    onnx.save(model, path, save_as_external_data=True, location="sum.onnx.data", size_threshold=0)
    return path


@pytest.mark.parametrize(
    ("kind", "of_kind"), [(OnnxRuntimeRunner, TappedRunner), (OpenVinoRunner, TappedOpenVino)]
)
def test_a_tap_gives_what_is_inside_the_same_file(
    kind: type[OnnxRuntimeRunner] | type[OpenVinoRunner], of_kind: type[Runner], graph: Path
) -> None:
    shipped, feed = kind(graph, threads=1), {"x": np.ones(1000, np.float32)}
    tap = tapped(shipped, ["largest", "constant"])
    assert isinstance(tap, TappedRunner | TappedOpenVino)
    assert isinstance(tap, of_kind)
    assert (tap.path, tap.threads) == (graph, 1)
    content = graph.read_bytes()
    (told,), (made,) = run_all(tap, [feed]), run_all(shipped, [feed])
    assert made.keys() == {"y"}, "the file that ships tells nothing"
    assert told.keys() == {"y", "largest", "constant"}
    assert (told["constant"].tolist(), told["constant"].dtype) == ([7], np.int32)
    assert told["y"] == made["y"] == 999 * 500
    assert (told["largest"], told["largest"].dtype) == (999, np.int32)
    assert graph.read_bytes() == content


def test_there_is_no_tap_without_inner_tensors(graph: Path, runner: TorchRunner) -> None:
    assert tapped(OnnxRuntimeRunner(graph), []) is None
    assert tapped(runner, ["largest"]) is None
