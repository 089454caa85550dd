"""Rivals are Meta's encoder in other forms, and nothing else: the same embedding from all."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from structsam_export import rivals
from structsam_export.rivals import Rival, TorchEncoder, encoder_of, fuse, rival
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.runners.base import DeviceArray

SIZE = 272  # 17 x 17 tokens: windows are padded


@pytest.fixture
def model(sam: Model, tiny: str) -> Model:
    """A SAM of two blocks at a small size."""
    return replace(sam, arch="two", image_size=SIZE, embedding=(256, 17, 17), low_res=68)


@pytest.fixture
def image() -> np.ndarray:
    """Pixels for it."""
    return np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("which", [one for one in Rival if one not in (Rival.COMPILE, Rival.META_INT8)])
def test_a_rival_computes_metas_embedding(
    which: Rival, model: Model, image: np.ndarray, tmp_path: Path
) -> None:
    meta = encoder_of(Rival.EAGER, model)
    with torch.no_grad():
        expected = meta(torch.from_numpy(image)).numpy()
    with rival(which, model, tmp_path, "cpu")() as runner:
        np.testing.assert_allclose(runner.infer({"image": image})["image_embedding"], expected, atol=2e-5)
        left = runner.infer_on_device({"image": image})["image_embedding"]
        assert isinstance(left, DeviceArray)
        np.testing.assert_allclose(left.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16), ("int8", torch.float32)],
)
def test_pytorch_computes_in_the_precision_of_the_exports(
    precision: str, dtype: torch.dtype, model: Model, image: np.ndarray
) -> None:
    """And gives float32."""
    model = replace(model, embedding=(3, SIZE, SIZE))
    with TorchEncoder("same", torch.nn.Identity, model, "cpu", precision, compiled=False) as runner:
        made = runner.infer({"image": image})["image_embedding"]
    np.testing.assert_array_equal(made, torch.from_numpy(image).to(dtype).float().numpy())


@pytest.mark.export
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what PyTorch deprecates
def test_the_compiled_rival_computes_it_too(model: Model, image: np.ndarray, tmp_path: Path) -> None:
    with (
        rival(Rival.EAGER, model, tmp_path, "cpu")() as eager,
        rival(Rival.COMPILE, model, tmp_path, "cpu")() as compiled,
    ):
        expected = eager.infer({"image": image})["image_embedding"]
        np.testing.assert_allclose(compiled.infer({"image": image})["image_embedding"], expected, atol=2e-5)


class Nncf:
    """A stand-in that quantises nothing."""

    ModelType = SimpleNamespace(TRANSFORMER="transformer")
    Dataset = list

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def quantize(self, model: Any, dataset: list[dict[str, np.ndarray]], **options: Any) -> Any:
        assert [feed["image"].shape for feed in dataset] == [(1, 3, SIZE, SIZE)]
        self.asked = options
        return model


def test_the_8_bits_of_openvino_are_those_that_nncf_makes_of_the_plain_export(
    model: Model, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr(rivals, "write_plain_export", write_small)
    with pytest.raises(UserError, match=r"--rival meta-int8 needs nncf; pip install nncf$"):
        rival(Rival.META_INT8, model, tmp_path, "openvino")
    monkeypatch.setitem(sys.modules, "nncf", stand_in := Nncf())
    with rival(Rival.META_INT8, model, tmp_path, "openvino")() as runner:
        made = runner.infer({"image": image})["image_embedding"]
        assert runner.memory().weights == sum(
            (tmp_path / f"meta-int8.{kind}").stat().st_size for kind in ("xml", "bin")
        )
    np.testing.assert_array_equal(made, np.float32(2) * image)
    assert stand_in.asked == {"subset_size": 1, "model_type": "transformer"}


def write_small(which: Rival, model: Model, path: Path) -> None:
    """A plain export that doubles the picture."""
    assert which is Rival.META
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE])
        for name in ("image", "image_embedding")
    ]
    node = onnx.helper.make_node("Add", ["image", "image"], ["image_embedding"])
    graph = onnx.helper.make_graph([node], "twice", ends[:1], ends[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path
    )


@pytest.mark.parametrize("which", Rival)
def test_a_rival_is_timed_on_the_runners_that_can(which: Rival) -> None:
    asked = ["cpu", "openvino"]
    expected = {Rival.META_INT8: ["openvino"], Rival.META: asked, Rival.META_FUSED: asked}
    assert list(which.runners(asked)) == expected.get(which, ["cpu"])
    if which is Rival.META_INT8:
        with pytest.raises(UserError, match="runs in OpenVINO alone; add --runner openvino"):
            which.runners(["cpu"])


def test_attention_without_relative_position_is_fused_too(model: Model, image: np.ndarray) -> None:
    encoder = encoder_of(Rival.EAGER, model)
    for block in encoder.blocks:
        block.attn.use_rel_pos = False
    with torch.no_grad():
        pixels = torch.from_numpy(image)
        expected = encoder(pixels)
        torch.testing.assert_close(fuse(encoder)(pixels), expected, rtol=0, atol=2e-5)
