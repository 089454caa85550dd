"""What runners of ONNX files have in common: their lifecycle, and what they check and say."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from structsam_runtime import OnnxRuntimeRunner, OpenVinoRunner, UserError
from structsam_runtime.runners.base import HostArray, Memory
from structsam_runtime.runners.onnxfile import EXPORT

Kind = type[OnnxRuntimeRunner] | type[OpenVinoRunner]


@pytest.fixture(params=[OnnxRuntimeRunner, OpenVinoRunner])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The class of a runner."""
    return request.param


def _feeds(prompts: int = 2, points: int = 3) -> dict[str, Any]:
    return {
        "image_embedding": np.zeros((1, 256, 64, 64), np.float32),
        "point_coords": np.ones((prompts, points, 2), np.float32),
        "point_labels": np.ones((prompts, points), np.int32),
        "mask_input": np.zeros((prompts, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(prompts, np.float32),
    }


def test_inputs_and_outputs_are_those_of_the_file(kind: Kind, export_folder: Path) -> None:
    with kind(export_folder / "decoder.onnx", threads=1) as runner:
        assert set(runner.inputs) == set(_feeds())
        assert runner.inputs["point_labels"].dtype == np.int32
        assert runner.inputs["point_coords"].shape == ("prompts", "points", 2)
        assert runner.outputs["masks"].shape == ("prompts", 4, 256, 256)
        outputs = runner.infer(_feeds())
    assert {name: array.shape for name, array in outputs.items()} == {
        "masks": (2, 4, 256, 256),
        "iou_predictions": (2, 4),
    }


def test_the_engine_lives_inside_the_block_and_can_be_entered_again(kind: Kind, export_folder: Path) -> None:
    runner = kind(export_folder / "decoder.onnx", threads=1)
    message = "is not open; use the runner inside a `with` block"
    with pytest.raises(UserError, match=message):
        runner.infer(_feeds())
    for _ in range(2):
        with runner:
            runner.infer(_feeds())
        with pytest.raises(UserError, match=message):
            runner.infer(_feeds())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mask_input": None},
            "got the inputs has_mask_input, image_embedding, point_coords, point_labels, exp",
        ),
        (
            {"image": np.zeros(1)},
            "got the inputs has_mask_input, image, image_embedding, .*, expected has_mask",
        ),
        ({"has_mask_input": [0.0]}, "input 'has_mask_input' is list, expected a NumPy array"),
        ({"point_labels": np.ones((2, 3), np.int64)}, "input 'point_labels' is int64, expected int32"),
        (
            {"has_mask_input": np.zeros((2, 1), np.float32)},
            r"shape \[2, 1\], expected \[prompts\], prompts = 2",
        ),
        (
            {"point_coords": np.ones((2, 3, 3), np.float32)},
            r"input 'point_coords' has shape \[2, 3, 3\], expected \[prompts, points, 2\]",
        ),
        (
            {"point_labels": np.ones((2, 4), np.int32)},
            r"'point_labels' has shape \[2, 4\], expected \[prompts, points\], prompts = 2, points = 3",
        ),
    ],
)
def test_refuses_feeds_before_running(
    kind: Kind, export_folder: Path, change: dict[str, Any], message: str
) -> None:
    feeds = {name: value for name, value in (_feeds() | change).items() if value is not None}
    with (
        kind(export_folder / "decoder.onnx", threads=1) as runner,
        pytest.raises(UserError, match=message) as error,
    ):
        runner.infer(feeds)
    assert "\n" not in str(error.value)


def test_a_device_array_of_another_kind_is_copied_after_the_same_checks(
    kind: Kind, export_folder: Path
) -> None:
    with kind(export_folder / "decoder.onnx", threads=1) as runner:
        feeds = _feeds()
        expected = runner.infer(feeds)["masks"]
        foreign = {name: HostArray(values) for name, values in feeds.items()}
        np.testing.assert_array_equal(runner.infer(foreign)["masks"], expected)
        for wrong in (np.zeros((1, 256, 64, 63), np.float32), np.zeros((1, 256, 64, 64))):
            for infer in (runner.infer, runner.infer_on_device):
                with pytest.raises(UserError, match="input 'image_embedding' "):
                    infer(feeds | {"image_embedding": HostArray(wrong)})


def test_memory_of_an_open_engine_is_reported(kind: Kind, export_folder: Path, tmp_path: Path) -> None:
    runner = kind(export_folder / "encoder.onnx")
    with pytest.raises(UserError, match="is not open"):
        runner.memory()
    size = (export_folder / "encoder.onnx").stat().st_size
    with runner:
        assert runner.memory() == Memory(weights=size, activations=None)
    for name in ("encoder.onnx", "encoder.onnx.data"):  # weights that are kept apart
        (tmp_path / name).write_bytes((export_folder / "encoder.onnx").read_bytes())
    with kind(tmp_path / "encoder.onnx") as runner:
        assert runner.memory().weights == 2 * size


def test_a_file_of_another_export_is_refused_if_it_says_so(
    kind: Kind, export_folder: Path, tmp_path: Path
) -> None:
    model = onnx.load(export_folder / "decoder.onnx")
    onnx.helper.set_model_props(model, {EXPORT: "mine"})
    onnx.save(model, tmp_path / "decoder.onnx")
    for path, said in (
        (tmp_path / "decoder.onnx", "mine"),
        (tmp_path / "decoder.onnx", None),  # an export from before ids
        (export_folder / "decoder.onnx", "mine"),  # a file that lost its own
    ):
        with kind(path, threads=1, export=said) as runner:
            assert set(runner.inputs) == set(_feeds())
    with (
        pytest.raises(UserError, match=r"decoder\.onnx is of another export than its manifest"),
        kind(tmp_path / "decoder.onnx", threads=1, export="other"),
    ):
        pass


def test_a_path_that_is_not_utf_8_is_one_line(tmp_path: Path, kind: Kind) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "encoder.onnx").write_bytes(b"any")
    with pytest.raises(
        UserError, match=r"the path .*/caf\\udce9/encoder\.onnx is not UTF-8; rename its folder"
    ):
        kind(folder / "encoder.onnx").__enter__()


def test_refuses_a_file_that_is_missing_or_no_model(tmp_path: Path, kind: Kind) -> None:
    library = "ONNX Runtime" if kind is OnnxRuntimeRunner else "OpenVINO"
    with pytest.raises(UserError, match=r"no file .*none\.onnx; expected an ONNX model"):
        kind(tmp_path / "none.onnx").__enter__()
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match=rf"{library} cannot load .*text\.onnx.*: ") as error:
        kind(tmp_path / "text.onnx").__enter__()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**9])
def test_refuses_other_numbers_of_threads(tmp_path: Path, kind: Kind, threads: int) -> None:
    with pytest.raises(UserError, match=f"threads is {threads}, expected 1 to 1024"):
        kind(tmp_path / "x.onnx", threads=threads)


def test_results_are_new_arrays_and_outlive_the_runner(export_folder: Path, kind: Kind) -> None:
    rng = np.random.default_rng(0)
    feeds = [_feeds() | {"point_coords": rng.random((2, 3, 2), np.float32) * 900} for _ in range(2)]
    with kind(export_folder / "decoder.onnx", threads=1) as runner:
        first = runner.infer(feeds[0])["masks"]
        kept = first.copy()
        second = runner.infer(feeds[1])["masks"]
        assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, kept)
