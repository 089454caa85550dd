"""What a checkpoint is, by its names: found behind any prefix, renamed where it can be, else named."""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.config import ExportConfig
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import architecture_named, build_sam, load_sam, read_checkpoint
from structsam_export.models.names import KINDS, recognise
from structsam_export.models.reading import Contents
from structsam_export.pipeline import load
from structsam_runtime.errors import UserError

from . import hugging_face as hf

SMALL = Architecture(32, 2, 2, (1,), "", "", width=32, decoder_mlp=32, decoder_heads=2, image_size=64)
HUGGING_FACE = Architecture(
    **hf.SIZES,
    file="",
    sha256="",
    width=hf.WIDTH,
    decoder_mlp=hf.DECODER_MLP,
    decoder_heads=hf.DECODER_HEADS,
    image_size=hf.IMAGE_SIZE,
)
RECORDED = Path(__file__).with_name("hugging_face.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Of a small SAM."""
    return dict(build_sam(SMALL).state_dict())


def tensors(*names: str) -> Contents:
    return Contents({name: torch.ones(1) for name in names})


# Prefixes


def nested(path: list[str], content: dict[str, Any]) -> dict[str, Any]:
    return nested(path[:-1], {path[-1]: content}) if path else content


KEYS = ["model", "state_dict", "sam", "net", "module", "_orig_mod", "model_state_dict", "image", "0"]


@given(
    around=st.lists(st.sampled_from(KEYS), max_size=3),
    prefix=st.lists(st.sampled_from(KEYS), max_size=3),
)
def test_a_sam_is_found_behind_any_keys_and_prefixes(
    weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory, around: list[str], prefix: list[str]
) -> None:
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    named = {".".join([*prefix, name]): value for name, value in weights.items()}
    torch.save(nested(around, named | ({"epoch": 3} if around else {})), path)
    found = read_checkpoint(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_parts_that_were_wrapped_or_stored_alone_are_put_together(weights: dict[str, Tensor]) -> None:
    compiled = {
        name.replace("image_encoder.", "image_encoder._orig_mod.").replace(
            "blocks.0.", "blocks.0.module."
        ): one
        for name, one in weights.items()
    }
    found, left_out = recognise(Contents(compiled), "sam.pth")
    assert (found.keys(), left_out) == (weights.keys(), [])


def test_what_is_not_read_is_said(weights: dict[str, Tensor]) -> None:
    beside = {f"optimizer.state.{name}.exp_avg": one for name, one in weights.items()}
    beside |= {f"optimizer.state.{name}.exp_avg_sq": one for name, one in weights.items()}
    held = {f"model.{name}": one for name, one in weights.items()} | beside | {"scaler": torch.ones(1)}
    found, left_out = recognise(Contents(held), "sam.pth")
    assert found.keys() == weights.keys()
    assert left_out == ["not read: optimizer, scaler"]


def test_of_several_models_the_one_called_model_is_taken_and_none_is_guessed(
    weights: dict[str, Tensor],
) -> None:
    def held(*keys: str) -> Contents:
        return Contents(
            {f"{key}.{name}": one + i for i, key in enumerate(keys) for name, one in weights.items()}
        )

    found, left_out = recognise(held("ema", "model"), "sam.pth")
    assert torch.equal(found["mask_decoder.iou_token.weight"], weights["mask_decoder.iou_token.weight"] + 1)
    assert left_out == ["not read: ema"]
    with pytest.raises(UserError, match="holds 2 models, sam and average; save the one that you mean alone"):
        recognise(held("sam", "average"), "sam.pth")


def test_a_tensor_that_is_there_with_and_without_a_wrapper_is_not_guessed() -> None:
    with pytest.raises(UserError, match=r"two tensors named image_encoder.a"):
        recognise(tensors("image_encoder.a", "module.image_encoder.a"), "sam.pth")


# Kinds

SAM = (
    "image_encoder.blocks.0.attn.qkv.weight",
    "prompt_encoder.no_mask_embed.weight",
    "mask_decoder.iou_token.weight",
)
FOREIGN: dict[str, tuple[tuple[str, ...], str]] = {
    "PEFT": (
        tuple(f"base_model.model.{name}" for name in (*SAM, "image_encoder.neck.0.lora_A.default.weight")),
        r"SAM with LoRA layers.*merge_and_unload\(\).*W \+= scale \* B @ A",
    ),
    "PEFT's own file": (
        ("base_model.model.vision_encoder.layers.0.attn.qkv.lora_B.weight",),
        "SAM with LoRA",
    ),
    "loralib": ((*SAM, "image_encoder.blocks.0.attn.qkv.lora_A"), "SAM with LoRA"),
    "SAMed": (("w_a_000", "w_b_000", "prompt_encoder.no_mask_embed.weight", SAM[2]), "SAM with LoRA"),
    "SAMed, whole": ((*SAM, "image_encoder.blocks.0.attn.qkv.linear_a_q.weight"), "SAM with LoRA"),
    "LoRA beside a SAM": (("sam." + SAM[0], "sam." + SAM[2], "lora_layers.0.weight"), "SAM with LoRA"),
    "Medical SAM Adapter": ((*SAM, "image_encoder.blocks.0.MLP_Adapter.D_fc1.weight"), "SAM with adapters"),
    "SAM-Med2D": ((*SAM, "image_encoder.blocks.0.Adapter.channel.0.weight"), "SAM with adapters"),
    "SAM-Adapter": ((*SAM, "image_encoder.prompt_generator.shared_mlp.weight"), "SAM with adapters"),
    "MobileSAM": (
        ("image_encoder.patch_embed.seq.0.c.weight", *SAM[1:]),
        "MobileSAM, whose encoder is TinyViT",
    ),
    "HQ-SAM": ((*SAM, "mask_decoder.hf_token.weight"), "HQ-SAM.*Meta's checkpoint of the same size"),
    "HQ-SAM's decoder": (("hf_token.weight", "mask_tokens.weight"), "HQ-SAM"),
    "transformers' HQ-SAM": (
        ("vision_encoder.layers.0.attn.qkv.weight", "mask_decoder.hq_token.weight"),
        "HQ-SAM",
    ),
    "SAM 2": (("image_encoder.trunk.blocks.0.norm1.weight", "sam_mask_decoder.iou_token.weight"), "SAM 2"),
    "SAM 2, wrapped": (
        ("model.image_encoder.trunk.pos_embed", "model.memory_attention.norm.weight"),
        "SAM 2",
    ),
    "transformers' SAM 2": (("vision_encoder.backbone.pos_embed", "mask_decoder.iou_token.weight"), "SAM 2"),
    "SAM 3": (("detector.backbone.vision_backbone.trunk.pos_embed", "tracker.a.weight"), "SAM 3"),
    "EfficientSAM": ((*SAM, "prompt_encoder.bbox_top_left_embeddings.weight"), "EfficientSAM"),
    "EfficientViT-SAM": (("image_encoder.backbone.stages.0.op_list.0.weight", *SAM[1:]), "EfficientViT-SAM"),
    "EdgeSAM": (("image_encoder.features.0.0.c.weight", *SAM[1:]), "EdgeSAM or RepViT-SAM"),
    "FastSAM": (("model.0.conv.weight", "model.22.proto.cv1.conv.weight"), "FastSAM or another YOLO"),
    "an encoder": (("image_encoder.patch_embed.proj.weight", SAM[0]), "an image encoder alone.*whole SAM"),
    "timm's encoder": (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "an image encoder alone"),
    "a decoder": (SAM[1:], "a mask decoder alone.*with its image encoder"),
    "a decoder without its name": (
        ("iou_token.weight", "transformer.layers.0.norm1.weight"),
        "a mask decoder",
    ),
    "an encoder that no one knows": (
        ("image_encoder.stem.weight", *SAM[1:]),
        "a SAM whose image encoder is none of Meta",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_models_are_called_by_their_names_with_what_to_do(what: str) -> None:
    names, told = FOREIGN[what]
    with pytest.raises(UserError, match=f"^sam.pth is {told}") as refused:
        recognise(tensors(*names), "sam.pth")
    assert re.search(": .{20}", str(refused.value)), "what to do"


def test_a_yolo_that_was_saved_whole_is_named() -> None:
    with pytest.raises(UserError, match="is FastSAM"):
        recognise(Contents({}, frozenset({"ultralytics.nn.tasks.SegmentationModel"})), "FastSAM-x.pt")


def test_a_model_that_was_saved_whole_is_refused_with_its_class() -> None:
    with pytest.raises(
        UserError, match=r"Python objects \(mine.Net\), not named tensors.*state_dict\(\) alone"
    ):
        recognise(Contents({}, frozenset({"mine.Net"})), "sam.pth")


def test_a_model_that_was_saved_whole_beside_tensors_is_refused_with_its_class() -> None:
    objects = frozenset({"torch.nn.modules.conv.Conv2d"})
    with pytest.raises(UserError, match=r"Python objects \(torch.nn.modules.conv.Conv2d\)"):
        recognise(Contents({"optimizer.state.0.step": torch.ones(1)}, objects), "sam.pth")


def test_every_kind_is_met_by_a_test(weights: dict[str, Tensor]) -> None:
    told = {kind.name for kind in KINDS for _, match in FOREIGN.values() if match.startswith(kind.name[:20])}
    assert {kind.name for kind in KINDS if kind.advice} == told


# Hugging Face


@pytest.fixture
def small_hf(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ARCHITECTURES, "hf", HUGGING_FACE)
    return "hf"


def overlap(logits: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union of every mask."""
    both, either = (logits > 0) & (theirs > 0), (logits > 0) | (theirs > 0)
    return both.sum((1, 2)) / either.sum((1, 2))


@pytest.mark.parametrize("tied", [True, False])
def test_a_sam_of_transformers_answers_as_there(small_hf: str, tmp_path: Path, tied: bool) -> None:
    """Through the encoder that merges nothing, with what transformers itself answered."""
    weights, answers = hf.recorded(RECORDED)
    if tied:  # as safetensors have it
        del weights["prompt_encoder.shared_embedding.positional_embedding"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert architecture_named(None, tmp_path) == small_hf
    sam = load(ExportConfig.of(small_hf, rate=0.0, checkpoint=tmp_path))
    embedding = sam.image_encoder(hf.picture(hf.IMAGE_SIZE))
    assert (embedding - answers["embedding"]).abs().max() < 1e-4
    prompts = {
        "point": {"points": (torch.tensor([[hf.POINT]]), torch.ones(1, 1)), "boxes": None},
        "box": {"points": None, "boxes": torch.tensor([hf.BOX])},
    }
    for name, prompt in prompts.items():
        sparse, dense = sam.prompt_encoder(**prompt, masks=None)
        masks, scores = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
        assert (overlap(masks[0], answers[f"{name}_masks"]) >= 0.999).all()
        assert torch.allclose(masks[0], answers[f"{name}_masks"], atol=1e-3)
        assert torch.allclose(scores[0], answers[f"{name}_scores"], atol=1e-3)


def test_the_recorded_masks_can_tell_models_apart() -> None:
    """No mask is empty or everything, and a point's are not a box's."""
    _, answers = hf.recorded(RECORDED)
    for name in ("point_masks", "box_masks"):
        shares = (answers[name] > 0).float().mean((1, 2))
        assert ((shares > 0.05) & (shares < 0.95)).all()
    assert (overlap(answers["point_masks"], answers["box_masks"]) < 0.99).all()


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value > 0,
        lambda value: value.to_sparse(),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda value: value.to("meta"),
        lambda value: value.flatten()[0],
        lambda value: value.half() * torch.inf,
    ],
)
def test_a_sam_of_transformers_without_plain_numbers_is_refused(
    small_hf: str, tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    weights, _ = hf.recorded(RECORDED)
    torch.save({name: change(value) for name, value in weights.items()}, tmp_path / "sam.bin")
    with pytest.raises(UserError):
        load_sam(small_hf, 0, tmp_path / "sam.bin", random_weights=False)
    with contextlib.suppress(UserError):
        architecture_named(None, tmp_path / "sam.bin")


def test_positions_that_are_not_tied_are_refused() -> None:
    weights, _ = hf.recorded(RECORDED)
    weights["shared_image_embedding.positional_embedding"] = torch.ones(2, 16)
    with pytest.raises(UserError, match="differ in the checkpoint, and a SAM has one for both"):
        recognise(Contents(weights), "sam.pth")


def test_names_of_every_size_are_metas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the depth: names are made from Meta's by the rules of transformers' own conversion."""
    own = build_sam(dataclasses.replace(SMALL, depth=11, global_blocks=(10,))).state_dict()
    theirs = {_hugging_face(name): one for name, one in own.items()}
    found, _ = recognise(Contents(theirs), "sam.pth")
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in own.items()}


def _hugging_face(name: str) -> str:
    """The name that transformers gives one of Meta's."""
    if "positional_encoding" in name:
        return "shared_image_embedding.positional_embedding"
    mlp = re.match(r"(.*(?:iou_prediction_head|hypernetworks_mlps\.\d))\.layers\.(\d)(.*)", name)
    if mlp:
        return mlp[1] + {"0": ".proj_in", "1": ".layers.0", "2": ".proj_out"}[mlp[2]] + mlp[3]
    for meta, theirs in {
        "image_encoder.neck.0": "image_encoder.neck.conv1",
        "image_encoder.neck.1": "image_encoder.neck.layer_norm1",
        "image_encoder.neck.2": "image_encoder.neck.conv2",
        "image_encoder.neck.3": "image_encoder.neck.layer_norm2",
        "patch_embed.proj": "patch_embed.projection",
        ".norm": ".layer_norm",
        "image_encoder.blocks": "image_encoder.layers",
        "image_encoder": "vision_encoder",
        "mask_downscaling.0": "mask_embed.conv1",
        "mask_downscaling.1": "mask_embed.layer_norm1",
        "mask_downscaling.3": "mask_embed.conv2",
        "mask_downscaling.4": "mask_embed.layer_norm2",
        "mask_downscaling.6": "mask_embed.conv3",
        "point_embeddings": "point_embed",
        "output_upscaling.0": "upscale_conv1",
        "output_upscaling.1": "upscale_layer_norm",
        "output_upscaling.3": "upscale_conv2",
    }.items():
        name = name.replace(meta, theirs)
    return name


def test_a_sam_loads_as_it_would_without_its_envelope(tiny: str, tmp_path: Path) -> None:
    sam = load_sam(tiny, 64, None, random_weights=True)
    torch.save({"net": {f"sam.{name}": one for name, one in sam.state_dict().items()}}, tmp_path / "sam.pth")
    loaded = load_sam(tiny, 64, tmp_path / "sam.pth", random_weights=False).state_dict()
    assert all(torch.equal(one, loaded[name]) for name, one in sam.state_dict().items())
