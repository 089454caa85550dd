"""Normalisations that export well and stay fp32."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structsam_export.choices import Precision
from structsam_export.encoder import apply
from structsam_export.graph.precision import DTYPES, LayerNorm2dFp32, LayerNormFp32, set_precision
from structsam_export.merging import StructSAM
from structsam_export.models.checkpoints import sam_modules


@pytest.fixture
def layer_norm_2d() -> Any:
    """SAM's own, with weights that are not ones and zeros."""
    sam_modules()
    norm = sam_modules().PromptEncoder.__init__.__globals__["LayerNorm2d"](32)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.requires_grad_(False)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_layer_norm_2d_is_sams(layer_norm_2d: Any, scale: float) -> None:
    """Results of order one; sums over 32 channels round to some 1e-6 in fp32 on both sides."""
    x = torch.randn(2, 32, 5, 7) * scale + scale
    assert torch.allclose(LayerNorm2dFp32(layer_norm_2d)(x), layer_norm_2d(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_inputs_have_fp32_statistics(layer_norm_2d: Any, dtype: torch.dtype) -> None:
    """Squares of 300 summed over 32 channels overflow fp16; the result is exact to one rounding."""
    x = (torch.randn(2, 32, 5, 7) * 300).to(dtype)
    for module, reference in (
        (LayerNorm2dFp32(layer_norm_2d), layer_norm_2d),
        (LayerNormFp32(nn.LayerNorm(7)), nn.LayerNorm(7)),
    ):
        result = module(x)
        assert result.dtype == dtype
        assert torch.allclose(result.float(), reference(x.float()), rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("precision", DTYPES)
def test_preparing_leaves_norms_in_fp32(
    build_encoder: Callable[..., Any], precision: Precision, structsam: StructSAM
) -> None:
    encoder = build_encoder(160)
    apply(encoder, [structsam] * 4)
    assert set_precision(encoder, precision) is encoder
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm) or type(m).__name__ == "LayerNorm2d"]
    assert len(norms) == 2 * 4 + 2
    assert all(value.dtype == torch.float32 for norm in norms for value in norm.parameters())
    inside = {id(value) for norm in norms for value in norm.parameters()}
    others = [value for value in encoder.parameters() if id(value) not in inside]
    assert len(others) == sum(1 for _ in encoder.parameters()) - 2 * len(norms)
    assert all(value.dtype == DTYPES[precision] for value in others)


def test_preparing_fp32_changes_nothing_but_rounding(
    build_encoder: Callable[..., Any], photographs: Callable[[int], Tensor], structsam: StructSAM
) -> None:
    encoder, image = build_encoder(160), photographs(160)
    apply(encoder, [structsam] * 4)
    expected = encoder(image)
    prepared = set_precision(copy.deepcopy(encoder), Precision.FP32)
    assert torch.allclose(prepared(image), expected, rtol=0, atol=1e-5)  # embeddings of order one
    assert torch.equal(encoder(image), expected), "the original is left alone"


@pytest.mark.parametrize(("precision", "cosine"), [(Precision.FP16, 0.9999), (Precision.BF16, 0.999)])
def test_a_half_encoder_stays_close_to_fp32(
    build_encoder: Callable[..., Any],
    photographs: Callable[[int], Tensor],
    precision: Precision,
    cosine: float,
) -> None:
    """Nothing merges, so only the rounding of each operation shows, 5e-4 in fp16 and 4e-3 in bf16."""
    encoder, image = build_encoder(160), photographs(160)[:1]
    apply(encoder, [StructSAM(0.0)] * 4)
    expected = encoder(image)
    made = set_precision(copy.deepcopy(encoder), precision)(image.to(DTYPES[precision])).float()
    assert torch.isfinite(made).all()
    assert torch.nn.functional.cosine_similarity(made.flatten(), expected.flatten(), dim=0) > cosine
