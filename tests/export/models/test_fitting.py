"""What differs between a checkpoint and a model or is interpolated is said; only numbers are loaded."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from structsam_export import pipeline
from structsam_export.config import ExportConfig
from structsam_export.models.architectures import ARCHITECTURES, DEFAULT, Architecture
from structsam_export.models.checkpoints import (
    architecture_named,
    build_sam,
    load_sam,
    own_weights,
    provenance,
    randomize,
)
from structsam_export.models.fitting import architecture_of, load_weights
from structsam_runtime.digest import sha256
from structsam_runtime.errors import UserError

SMALL = Architecture(32, 4, 2, (1, 3), "", "0", width=32, decoder_mlp=32, decoder_heads=2, image_size=256)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ARCHITECTURES, "small", SMALL)
    return "small"


def weights_of(image_size: int = 0, **changes: Any) -> dict[str, Tensor]:
    sam = build_sam(dataclasses.replace(SMALL, **changes), image_size)
    randomize(sam)
    return dict(sam.state_dict())


# What differs


def without_a_mask_token(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if ".output_hypernetworks_mlps.3." in name]:
        del weights[name]
    for name in (
        "mask_tokens.weight",
        "iou_prediction_head.layers.2.weight",
        "iou_prediction_head.layers.2.bias",
    ):
        weights[f"mask_decoder.{name}"] = weights[f"mask_decoder.{name}"][:3]


def with_four_bands(weights: dict[str, Tensor]) -> None:
    weights["image_encoder.patch_embed.proj.weight"] = torch.ones(32, 4, 16, 16)


def in_three_dimensions(weights: dict[str, Tensor]) -> None:
    weights["image_encoder.patch_embed.proj.weight"] = torch.ones(32, 3, 16, 16, 16)


DIFFERENT: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], None] | None, str]] = {
    "mask tokens": ({}, without_a_mask_token, "3 mask tokens, expected 4, "),
    "bands": ({}, with_four_bands, "4 input bands, expected 3, "),
    "dimensions": ({}, in_three_dimensions, r"is \[32, 3, 16, 16, 16\], expected \[32, 3, 16, 16\]"),
    "window": ({"window": 7}, None, "7 tokens along a window, expected 14, "),
    "depth": ({"depth": 6}, None, r"6 blocks, expected 4, 28 are unknown \(image_encoder.blocks.4"),
    "width": ({"embed_dim": 64}, None, "64 channels of a token, expected 32, "),
    "heads": ({"heads": 4}, None, "8 channels of a head, expected 16, "),
    "patch": ({"patch": 8}, None, "8 pixels along a patch, expected 16, "),
    "embedding": ({"width": 64}, None, "64 channels of the embedding, expected 32, "),
    "decoder": ({"decoder_mlp": 64}, None, "64 hidden channels in the decoder's MLPs, expected 32, "),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_said_without_advice_that_was_followed(small: str, what: str) -> None:
    changes, change, told = DIFFERENT[what]
    weights = weights_of(**changes)
    if change:
        change(weights)
    with pytest.raises(UserError, match=rf"^sam.pth is not a SAM small: .*{told}") as refused:
        load_weights(build_sam(small), weights, small, "sam.pth")
    assert "try --arch" not in str(refused.value)


@given(data=st.data())
def test_advice_is_never_what_was_given_and_always_right(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for index in range(3):
            own = dataclasses.replace(
                SMALL, embed_dim=16 * data.draw(st.integers(1, 2)), depth=data.draw(st.integers(1, 2)),
                global_blocks=(0,), window=data.draw(st.sampled_from([7, 14])),
            )  # fmt: skip
            patch.setitem(ARCHITECTURES, f"one{index}", own)
        given_, asked = (f"one{data.draw(st.integers(0, 2))}" for _ in range(2))
        weights = dict(build_sam(given_, 64).state_dict())
        try:
            load_weights(build_sam(asked, 64), weights, asked, "sam.pth")
        except UserError as error:
            advice = re.search(r"try --arch (\w+)$", str(error))
            assert advice is None or advice[1] != asked
            assert advice is None or ARCHITECTURES[advice[1]].embed_dim == ARCHITECTURES[given_].embed_dim


# Recognised without --arch


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_recognised_by_its_sizes(arch: str) -> None:
    size = ARCHITECTURES[arch]
    with torch.device("meta"):
        tensors = {
            "image_encoder.patch_embed.proj.weight": torch.empty(size.embed_dim, 3, size.patch, size.patch),
            "image_encoder.neck.0.weight": torch.empty(size.width, size.embed_dim, 1, 1),
        } | {
            f"image_encoder.blocks.{block}.attn.rel_pos_h": torch.empty(27, size.embed_dim // size.heads)
            for block in range(size.depth)
        }
    assert architecture_of(tensors, "sam.pth") == arch


def test_sizes_of_no_architecture_are_listed() -> None:
    told = (
        r"sam.pth has 32 channels of a token, .*, 4 blocks, .* none of vit_nano, vit_b, .*; give its --arch"
    )
    with pytest.raises(UserError, match=told):
        architecture_of(weights_of(64), "sam.pth")
    with pytest.raises(UserError, match=r"sam.pth is not a SAM: no tensor is named as .* \(a.weight \.\.\)"):
        architecture_of({"a.weight": torch.ones(2)}, "sam.pth")


def test_arch_may_be_left_out(small: str, tmp_path: Path) -> None:
    torch.save({"model": weights_of()}, tmp_path / "sam.pth")
    assert architecture_named(None, tmp_path / "sam.pth") == small
    assert architecture_named("vit_b", tmp_path / "sam.pth") == "vit_b", "what was asked for"
    assert architecture_named(None, None) == DEFAULT
    assert architecture_named(None, own_weights("vit_nano")) == "vit_nano"


# Numbers


NO_WEIGHTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "boolean": (lambda value: value > 0, "bool"),
    "integer": (lambda value: value.to(torch.int8), "int8"),
    "complex": (lambda value: value.to(torch.complex64), "complex64"),
    "float8": (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "sparse": (lambda value: value.to_sparse(), "sparse_coo"),
    "quantised": (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "qint8"),
    "meta": (lambda value: value.to("meta"), "without data"),
}


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_only_floating_point_numbers_are_weights(small: str, tmp_path: Path, what: str) -> None:
    change, told = NO_WEIGHTS[what]
    weights, name = weights_of(), "mask_decoder.iou_token.weight"
    weights[name] = change(weights[name])
    torch.save(weights, tmp_path / "sam.pth")
    with pytest.raises(UserError, match=rf"sam.pth: {name} is {told}; expected float32, float16 or bfloat16"):
        load_sam(small, 0, tmp_path / "sam.pth", random_weights=False)


def test_a_number_alone_is_another_shape(small: str) -> None:
    weights = weights_of() | {"mask_decoder.iou_token.weight": torch.tensor(1.0)}
    with pytest.raises(UserError, match=r"1 have another shape \(mask_decoder.iou_token.weight is \[\]"):
        load_weights(build_sam(small), weights, small, "sam.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_what_is_not_finite_is_named(small: str, value: float) -> None:
    weights = {name: one.double() for name, one in weights_of().items()}
    weights["prompt_encoder.no_mask_embed.weight"][0, 3:5] = value
    told = r"sam.pth: prompt_encoder.no_mask_embed.weight holds NaN or infinity \(2 of 32 values\)"
    with pytest.raises(UserError, match=told):
        load_weights(build_sam(small), weights, small, "sam.pth")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
def test_other_precisions_load_as_float32_and_are_remembered(small: str, tmp_path: Path, dtype: str) -> None:
    weights = {name: one.to(getattr(torch, dtype)) for name, one in weights_of().items()}
    save_file(weights, tmp_path / "sam.bin")
    loaded = load_sam(small, 0, tmp_path / "sam.bin", random_weights=False).state_dict()
    assert all(torch.equal(loaded[name], one.float()) for name, one in weights.items())
    assert {one.dtype for one in loaded.values()} == {torch.float32}
    config = ExportConfig(small, tmp_path / "sam.bin")
    assert pipeline.weights_source(config) == {
        "source": "sam.bin",
        "sha256": sha256(tmp_path / "sam.bin"),
        "dtype": dtype,
    }


def test_mixed_precisions_and_folders_are_remembered(tmp_path: Path) -> None:
    one, other = {"a": torch.ones(1)}, {"b": torch.ones(1).half()}
    save_file(one | other, tmp_path / "model.safetensors")
    assert provenance(tmp_path)["dtype"] == "float16, float32"
    assert provenance(tmp_path)["sha256"] == sha256(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    save_file(one, tmp_path / "1.safetensors")
    save_file(other, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    before = provenance(tmp_path)["sha256"]
    save_file({"b": torch.zeros(1).half()}, tmp_path / "2.safetensors")
    assert provenance(tmp_path)["sha256"] != before


# Positions


def test_what_is_interpolated_is_said(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": weights_of(128), "optimizer": {"a": torch.ones(1)}}, tmp_path / "sam.pth")
    load_sam(small, 0, tmp_path / "sam.pth", random_weights=False)
    assert capsys.readouterr().err.splitlines() == [
        "sam.pth: not read: optimizer",
        "sam.pth: position embeddings of 128 px interpolated to 256 px, which --image-size 128 would keep",
    ]
    load_sam(small, 128, tmp_path / "sam.pth", random_weights=False)
    assert capsys.readouterr().err == "sam.pth: not read: optimizer\n"


def test_positions_of_a_map_that_is_no_square_are_fitted_by_axis(small: str) -> None:
    weights = weights_of(256)
    weights["image_encoder.pos_embed"] = torch.randn(1, 16, 12, 32)
    for block in SMALL.global_blocks:
        weights[f"image_encoder.blocks.{block}.attn.rel_pos_w"] = torch.randn(23, 16)
    sam = build_sam(small)
    assert load_weights(sam, weights, small, "sam.pth") == [
        "position embeddings of 256 x 192 px interpolated to 256 px"
    ]
    table = "image_encoder.blocks.1.attn.rel_pos"
    assert torch.equal(sam.state_dict()[f"{table}_h"], weights[f"{table}_h"])
    wanted = F.interpolate(weights[f"{table}_w"].T[None], size=31, mode="linear")[0].T
    assert torch.equal(sam.state_dict()[f"{table}_w"], wanted)


def test_longer_tables_beside_smaller_positions_are_fitted_as_sam_would(small: str) -> None:
    """Fine-tunes at another size often leave them; SAM's own attention interpolates them then."""
    weights = weights_of(128)
    weights |= {name: one for name, one in weights_of(1024).items() if "rel_pos" in name}
    sam = build_sam(small, 128)
    assert load_weights(sam, weights, small, "sam.pth")
    image = torch.randn(1, 3, 128, 128)
    found = sam.image_encoder(image)
    for block in SMALL.global_blocks:
        attention = sam.image_encoder.blocks[block].attn
        for axis in "hw":
            name = f"rel_pos_{axis}"
            longer = weights[f"image_encoder.blocks.{block}.attn.{name}"]
            setattr(attention, name, torch.nn.Parameter(longer))
    assert torch.allclose(sam.image_encoder(image), found, atol=1e-5)


def test_positions_of_absurd_maps_are_another_shape(small: str) -> None:
    """Of a tensor that takes a few bytes in the file and terabytes in memory."""
    weights = weights_of() | {"image_encoder.pos_embed": torch.ones(1).expand(1, 10**6, 10**4, 32)}
    with pytest.raises(UserError, match=r"image_encoder.pos_embed is \[1, 1000000, 10000, 32\]"):
        load_weights(build_sam(small), weights, small, "sam.pth")
