"""All forms of attention against the plain one, in PyTorch, in ONNX Runtime and in TensorRT-RTX's builder."""

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.choices import Attention, Engine, Precision, Target
from structsam_export.config import ExportConfig
from structsam_export.encoder import apply
from structsam_export.encoder.attention import MergedAttention, shares
from structsam_export.encoder.exported import PlannedEncoder, output_names
from structsam_export.encoder.forms import FORMS, Bias, added, carried, form, widened
from structsam_export.encoder.patch import windows_of
from structsam_export.graph.lint import lint
from structsam_export.graph.passes import run_passes
from structsam_export.graph.precision import set_precision
from structsam_export.graph.save import save
from structsam_export.graph.trace import trace
from structsam_export.merging import Method, StructSAM, Windows
from structsam_export.models.architectures import ARCHITECTURES
from structsam_export.targets import DIALECTS, FUSED, PATTERN, PORTABLE, supports
from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.build import EngineBuilder

Attend = Callable[..., Tensor]

# Outputs are of order one and sums of some hundred terms of order one are taken in other orders, so fp32 may
# differ by some ten times its 6e-8; fp64 then shows that nothing but rounding does.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES, BLOCKS = tuple(ROUNDING), {0: "window", 1: "global"}


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", BLOCKS, ids=BLOCKS.values())
@pytest.mark.parametrize("which", Attention)
def test_every_form_agrees_among_merged_slots(
    encoder: Any, features: Tensor, plain_attention: Attend, which: Attention, index: int, dtype: torch.dtype
) -> None:
    windows, block = windows_of(encoder)[index], copy.deepcopy(encoder.blocks[index]).to(dtype)
    plan = StructSAM(0.55).plan(features, windows)
    slots = plan.merge(windows.cut(features.to(dtype)))
    expected = block.attn.proj(plain_attention(block.attn, slots, plan.position, windows.side))
    own = MergedAttention(block.attn, windows.side, form=which)(slots, plan.position)
    assert close(own, expected, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [14, 20])
@pytest.mark.parametrize("which", [*FORMS.values(), added], ids=lambda one: one.__name__)
def test_every_form_agrees_among_all_tokens(
    encoder: Any,
    features: Tensor,
    plain_attention: Attend,
    which: Any,
    side: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At sides where one form or another would be chosen."""
    attention = copy.deepcopy(encoder.blocks[1 if side == 20 else 0].attn).to(dtype)
    x = Windows(20, 20, side).cut(features.to(dtype))
    position = torch.arange(side * side, dtype=torch.int32).expand(len(x), -1)
    expected = attention.proj(plain_attention(attention, x, position, side))
    monkeypatch.setattr("structsam_export.encoder.forms.form", lambda *_: which)
    assert close(MergedAttention(attention, side)(x, position), expected, ROUNDING[dtype])


def test_a_gathered_bias_does_not_support_mean_positions(encoder: Any) -> None:
    with pytest.raises(ValueError, match="gather does not support place=mean"):
        MergedAttention(encoder.blocks[0].attn, 14, footprint=2, form=Attention.GATHER)


@given(st.data())
def test_a_mask_of_products_is_the_gathered_bias_exactly(data: st.DataObject) -> None:
    """Ones pick numbers and zeros add nothing: in any order and with repetitions, whatever the numbers."""
    side = data.draw(st.integers(2, 6))
    places = data.draw(st.lists(st.integers(0, side**2 - 1), min_size=1, max_size=side**2 - 1))
    seed = data.draw(st.integers(0, 2**31))
    place = torch.tensor([places], dtype=torch.int32)
    relative = torch.randn(1, 2, len(places), 2 * side, generator=torch.Generator().manual_seed(seed))
    rows, columns = (place // side).long(), (place % side).long()
    picked = relative[..., rows[0]] + relative[..., side + columns[0]]
    assert torch.equal(Bias(side, relative, shares(side), place).mask(), picked)


def test_the_bias_is_added_only_to_all_tokens_of_a_wide_map() -> None:
    """Where carrying it would be dearer than the product of query and key itself."""
    chosen = [form(Attention.WIDENED, slots, 20, 32) for slots in (399, 400)]
    assert chosen == [widened, added]
    assert form(Attention.WIDENED, 196, 14, 32) is widened
    assert all(form(which, 400, 20, 32) is FORMS[which] for which in set(Attention) - {Attention.WIDENED})


def test_channels_per_pair_that_compute_the_bias() -> None:
    merged = {which: carried(which, 88, 14, 64, weighed=False) for which in Attention}
    assert merged == dict.fromkeys(Attention, 28) | {Attention.GATHER: 0}
    whole = {which: carried(which, 196, 14, 64, weighed=False) for which in Attention}
    assert whole == dict.fromkeys(Attention, 0) | {Attention.WIDENED: 28}
    assert carried(Attention.WIDENED, 88, 14, 64, weighed=True) == 29
    assert carried(Attention.WIDENED, 4096, 64, 64, weighed=False) == 0


# In graphs


def graph_of(encoder: Any, opset: int, precision: Precision = Precision.FP32) -> onnx.ModelProto:
    module = set_precision(PlannedEncoder(copy.deepcopy(encoder)), precision)
    image = {"image": torch.zeros(1, 3, encoder.img_size, encoder.img_size)}
    return run_passes(trace(module, image, output_names(encoder), opset=opset))[0]


@pytest.mark.export
@pytest.mark.parametrize(
    ("which", "method"),
    [
        *((which, StructSAM(0.55, proportional=True)) for which in Attention),
        (Attention.OPERATOR, StructSAM(0.55)),
        (Attention.OPERATOR, StructSAM(0.0)),
    ],
)
def test_every_form_is_exported(
    build_encoder: Callable[..., Any],
    photographs: Callable[[int], Tensor],
    which: Attention,
    method: Method,
    tmp_path: Path,
) -> None:
    encoder = build_encoder(320, depth=2, global_attn_indexes=(1,))
    apply(encoder, [method] * 2, form=which)
    fused = which is Attention.OPERATOR
    model = graph_of(encoder, FUSED.opset if fused else PORTABLE.opset)
    assert model.opset_import[0].version == (23 if fused else 20)
    assert Counter(node.op_type for node in model.graph.node)["Attention"] == (2 if fused else 0)
    errors = [finding.rule for finding in lint(model, "10.3") if finding.severity == "error"]
    assert errors == (["version"] * 2 if fused else []), "JetPack 6 has no Attention"
    save(model, tmp_path / "encoder.onnx")
    with OnnxRuntimeRunner(tmp_path / "encoder.onnx") as runner:
        for image in photographs(320):
            made = runner.infer({"image": image[None].numpy()})["image_embedding"]
            error = np.abs(made - encoder(image[None]).numpy()).max()
            assert error <= 1e-3, "of embeddings whose deviation is one"


@pytest.mark.export
@pytest.mark.parametrize(
    ("arch", "which"),
    [
        *(("vit_b", which) for which in (Attention.GATHER, Attention.OPERATOR)),
        # Every form that a target takes, with heads of 80 channels.
        *(("vit_h", dialect.forms[Precision.FP16]) for dialect in (PORTABLE, PATTERN, FUSED)),
    ],
)
def test_tensorrt_rtx_builds_every_form_at_full_width(
    build_encoder: Callable[..., Any], arch: str, which: Attention, tmp_path: Path
) -> None:
    """A window block and a global one at 1024 pixels in fp16. All blocks: benchmarks/builds-rtx.md."""
    pytest.importorskip("tensorrt_rtx")
    known = ARCHITECTURES[arch]
    encoder = build_encoder(
        1024, embed_dim=known.embed_dim, num_heads=known.heads, depth=2, global_attn_indexes=(1,)
    )
    apply(encoder, [StructSAM(0.55)] * 2, form=which)
    dialect = FUSED if which is FUSED.forms[Precision.FP16] else PORTABLE
    model = graph_of(encoder, dialect.opset, Precision.FP16)
    assert [finding for finding in lint(model, dialect.tensorrt) if finding.severity == "error"] == []
    path = tmp_path / "encoder.onnx"
    save(model, path)
    EngineBuilder(Engine.TENSORRT_RTX).build(path, tmp_path / "encoder.engine", {})
    assert (tmp_path / "encoder.engine").stat().st_size > 0.5 * path.stat().st_size


# Targets


def test_every_target_takes_a_form_that_its_opset_has() -> None:
    assert set(DIALECTS) == set(Target)
    assert DIALECTS[Target.TENSORRT10].tensorrt == "10.3", "JetPack 6"
    for target, precision in itertools.product(Target, Precision):
        if not supports(target, precision):
            assert (target, precision) == (Target.TENSORRT10, Precision.BF16)
            continue
        config = ExportConfig("vit_b", target=target, precision=precision)
        own, chosen = DIALECTS[target], config.dialect
        if precision is not Precision.BF16:
            assert chosen is own
        assert config.form is own.forms[precision], "in bf16 too"
        assert chosen.opset >= (22 if precision is Precision.BF16 else 20), "the first with Conv in bf16"
        assert config.form is not Attention.OPERATOR or chosen.opset >= 23
        assert config.form is not Attention.OPERATOR or precision.around in ("fp16", "bf16")
