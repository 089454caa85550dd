"""The rules on SAM's encoder, small, plain and with merging, as a tracer leaves it."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from structsam_export.choices import Precision
from structsam_export.encoder import apply as apply_merging
from structsam_export.encoder.exported import PlannedEncoder, output_names
from structsam_export.graph.passes import run_passes
from structsam_export.graph.precision import set_precision
from structsam_export.graph.trace import trace
from structsam_export.merging import StructSAM
from structsam_export.models.checkpoints import sam_modules

Same = Callable[[onnx.ModelProto, onnx.ModelProto], None]

SIDE = 256  # pixels: 16 x 16 tokens, so that windows of 14 need padding


def encoder() -> Any:
    """One block with windows and one without, and every parameter away from its initial zero."""
    torch.manual_seed(0)
    model = sam_modules().ImageEncoderViT(
        img_size=SIDE,
        depth=2,
        embed_dim=32,
        num_heads=2,
        out_chans=16,
        window_size=14,
        use_rel_pos=True,
        global_attn_indexes=[1],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.export
def test_a_graph_as_deep_as_vit_b_is_small(build_encoder: Callable[..., Any]) -> None:
    """Its count of nodes does not depend on how wide it is; nor do the tables beside its weights."""
    model = build_encoder(1024, depth=12, global_attn_indexes=(2, 5, 8, 11))
    apply_merging(model, [StructSAM(0.55)] * 12)
    module = set_precision(PlannedEncoder(model), Precision.FP32)
    image = {"image": torch.zeros(1, 3, 1024, 1024)}
    after, _ = run_passes(trace(module, image, output_names(model)))
    assert len(after.graph.node) < 750
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert after.ByteSize() - weights < 0.02 * 358_683_648, "of ViT-B's weights"


@pytest.mark.export
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_merging_is_indexed_in_int32_but_for_what_topk_and_argmin_give(same: Same, dynamic: bool) -> None:
    model = encoder()
    apply_merging(model, [StructSAM(0.5)] * 2)
    image = {"image": torch.randn(2, 3, SIDE, SIDE)}
    before = trace(model, image, ["image_embeddings"], {"image": {0: "batch"}} if dynamic else None)
    after, edits = run_passes(before)
    same(before, after)
    assert edits["int32_indices"]
    assert edits["drop_reshapes"]
    assert ops(after)["Cast"] < ops(before)["Cast"]
    types = {info.name: info.type.tensor_type.elem_type for info in after.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    chosen = {name for node in after.graph.node if node.op_type in ("TopK", "ArgMin") for name in node.output}
    gathers = [node for node in after.graph.node if node.op_type.startswith("Gather")]
    indices = {node.input[1] for node in gathers} - chosen
    assert {types[name] for name in indices} == {onnx.TensorProto.INT32}
