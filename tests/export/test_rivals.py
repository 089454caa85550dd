"""Rivals are Meta's encoder in other forms, and nothing else: the same embedding from all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from structsam_export.rivals import Rival, encoder_of, fuse, rival
from structsam_runtime.manifest import Model
from structsam_runtime.runners.base import DeviceArray

SIZE = 272  # 17 x 17 tokens: windows are padded


@pytest.fixture
def model(sam: Model, tiny: str) -> Model:
    """The small SAM at a small size."""
    return replace(sam, arch=tiny, image_size=SIZE, embedding=(256, 17, 17), low_res=68)


@pytest.fixture
def image() -> np.ndarray:
    """Pixels for it."""
    return np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("which", [one for one in Rival if one is not Rival.COMPILE])
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


@pytest.mark.export
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what PyTorch deprecates
def test_the_compiled_rival_computes_it_too(model: Model, image: np.ndarray, tmp_path: Path) -> None:
    with (
        rival(Rival.EAGER, model, tmp_path, "cpu")() as eager,
        rival(Rival.COMPILE, model, tmp_path, "cpu")() as compiled,
    ):
        expected = eager.infer({"image": image})["image_embedding"]
        np.testing.assert_allclose(compiled.infer({"image": image})["image_embedding"], expected, atol=2e-5)


def test_attention_without_relative_position_is_fused_too(model: Model, image: np.ndarray) -> None:
    encoder = encoder_of(Rival.EAGER, model)
    for block in encoder.blocks:
        block.attn.use_rel_pos = False
    with torch.no_grad():
        pixels = torch.from_numpy(image)
        expected = encoder(pixels)
        torch.testing.assert_close(fuse(encoder)(pixels), expected, rtol=0, atol=2e-5)
