"""Encoders that run by other means than eager PyTorch: by the kernels, and compiled block by block."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.choices import Attention
from structsam_export.encoder import apply
from structsam_export.encoder.exported import PlannedEncoder
from structsam_export.encoder.kernels import KernelBlock, use_kernels
from structsam_export.gpu.compiling import compiled
from structsam_export.merging import Identity, Method, StructSAM, ToMe
from structsam_export.merging.kernels import TensorKernels
from structsam_plugins import Kernels
from structsam_plugins.build import build

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]


def assert_alike(module: torch.nn.Module, image: Tensor, expected: tuple[Tensor, ...]) -> None:
    """The same plans, and the embedding up to rounding."""
    embedding, *plans = module(image)
    torch.testing.assert_close(embedding, expected[0], atol=1e-5, rtol=1e-5)
    assert len(plans) == len(expected) - 1 > 0
    assert all(map(torch.equal, plans, expected[1:]))


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile the kernels with")
def test_kernels_take_the_place_of_pytorch(
    build_encoder: Build, photographs: Photographs, tmp_path: Path
) -> None:
    encoder, image = build_encoder(320), photographs(320)[:2]
    methods: list[Method] = [StructSAM(0.55), Identity(), StructSAM(0.35, heads=2), ToMe(0.5)]
    apply(encoder, methods)
    expected = PlannedEncoder(encoder)(image)
    use_kernels(encoder, TensorKernels(Kernels(build("cpu", tmp_path))))
    assert [isinstance(block, KernelBlock) for block in encoder.blocks] == [True, False, True, False]
    assert_alike(PlannedEncoder(encoder), image, expected)
    with pytest.raises(ValueError, match="without a prior"):
        encoder.blocks[0].forward_with_plans(torch.zeros(1, 20, 20, 64), torch.zeros(1, 20, 20))


@pytest.mark.long
def test_blocks_that_are_alike_are_compiled_once(
    build_encoder: Build, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as `torch.compile` does, without its code."""
    encoder, image = build_encoder(320, depth=6), photographs(320)[:2]
    apply(encoder, [StructSAM(0.55, seed=index) for index in range(6)], form=Attention.OPERATOR)
    module = PlannedEncoder(encoder)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        expected = module(image)
        with compiled(module) as fast:
            assert_alike(fast, image, expected)
    first, window, whole, neck = 1, 1, 1, 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == first + window + whole + neck
