"""Weights into a model: what differs is said, what belongs to another image size is interpolated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from structsam_runtime.errors import UserError

from .architectures import ARCHITECTURES

Weights = dict[str, Tensor]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be in. All are computed with in float32."""
POSITIONS = "image_encoder.pos_embed"
PATCHES = "image_encoder.patch_embed.proj.weight"
AXES = (
    ("channels of a token", PATCHES, 0),
    ("input bands", PATCHES, 1),
    ("pixels along a patch", PATCHES, 3),
    ("channels of the embedding", "image_encoder.neck.0.weight", 0),
    ("mask tokens", "mask_decoder.mask_tokens.weight", 0),
    ("hidden channels in the decoder's MLPs", "mask_decoder.transformer.layers.0.mlp.lin1.weight", 0),
)
"""Sizes that one SAM may differ in from another: in words, and the axis of the tensor that tells it."""
LARGEST = 1024
"""Tokens along the side of the largest map whose positions are interpolated."""


def load_weights(sam: Any, weights: Weights, arch: str, source: str) -> list[str]:
    """Put a checkpoint's tensors into a Sam of the same architecture, any image size, in float32.

    Position embeddings of another image size are interpolated (bicubic), relative positions of global blocks
    linearly, as SAM does itself.

    Args:
        sam: changed in place.
        weights: by Meta's names, of any floating-point type.
        arch: what `sam` is, for messages.
        source: where the weights came from, for messages.

    Returns:
        What has been interpolated, in words.

    Raises:
        UserError: the file is not a SAM of that architecture, or a tensor holds other things than finite
            floating-point numbers; says what differs.
    """
    own = sam.state_dict()
    weights = {name: value for name, value in weights.items() if name not in ("pixel_mean", "pixel_std")}
    _check_kinds(own, weights, source)
    fitted = {name: _fitted(name, value, weights, sam) for name, value in weights.items()}
    if differs := _difference(own, fitted, weights, arch):
        raise UserError(f"{source} is not a SAM {arch}: {differs}")
    sam.load_state_dict(fitted)
    _check_finite(sam, source)
    resized = [name for name, value in fitted.items() if value.shape != weights[name].shape]
    return _resized(weights, sam) if resized else []


def architecture_of(weights: Mapping[str, Tensor], source: str) -> str:
    """The architecture that a checkpoint is of, by its sizes.

    Raises:
        UserError: none, or the checkpoint has no image encoder.
    """
    sizes = _sizes(weights)
    if fits := _fits(weights):
        return fits[0]
    if "blocks" not in sizes:
        raise UserError(
            f"{source} is not a SAM: no tensor is named as in its image encoder "
            f"({next(iter(weights), 'it has none')} ..); expected a PyTorch state dict of a SAM"
        )
    has = ", ".join(f"{size} {what}" for what, size in sizes.items())
    raise UserError(f"{source} has {has}, which is none of {', '.join(ARCHITECTURES)}; give its --arch")


def _check_kinds(own: Weights, weights: Weights, source: str) -> None:
    """Refuse tensors that are anything but plain floating-point numbers in memory."""
    for name in own.keys() & weights.keys():
        value = weights[name]
        kind = not_a_weight(value) or ("without data" if value.is_meta and not own[name].is_meta else "")
        if kind:
            raise UserError(
                f"{source}: {name} is {kind}; expected float32, float16 or bfloat16, so save the "
                "state_dict() of a model that is neither quantised nor pruned"
            )


def not_a_weight(value: Tensor) -> str:
    """What a tensor is that cannot be a weight, such as `bool` or `sparse_coo`; empty for one that can."""
    if value.is_nested or value.layout is not torch.strided:
        return "nested" if value.is_nested else f"{str(value.layout).removeprefix('torch.')}"
    if value.is_quantized or value.dtype not in DTYPES:
        return str(value.dtype).removeprefix("torch.")
    return ""


def _check_finite(sam: nn.Module, source: str) -> None:
    """Refuse weights that a network cannot compute with, by name; weights without data pass."""
    for name, value in sam.state_dict().items():
        if not value.is_meta and not value.isfinite().all():
            wrong = int((~value.isfinite()).sum())
            raise UserError(
                f"{source}: {name} holds NaN or infinity ({wrong} of {value.numel()} values); give a "
                "checkpoint from before training diverged"
            )


def _difference(own: Weights, fitted: Weights, weights: Weights, arch: str) -> str:
    """What a person needs to see of how two sets of tensors differ; empty where they do not."""
    found = []
    if missing := sorted(own.keys() - fitted.keys()):
        found.append(f"{len(missing)} tensors are missing ({missing[0]} ..)")
    if unknown := sorted(fitted.keys() - own.keys()):
        found.append(f"{len(unknown)} are unknown ({unknown[0]} ..)")
    if shaped := [name for name in own if name in fitted and fitted[name].shape != own[name].shape]:
        name = shaped[0]
        found.append(
            f"{len(shaped)} have another shape ({name} is {list(fitted[name].shape)}, "
            f"expected {list(own[name].shape)})"
        )
    if not found:
        return ""
    ours, theirs = _sizes(own), _sizes(weights)
    sizes = [
        f"{theirs[what]} {what}, expected {size}"
        for what, size in ours.items()
        if what in theirs and theirs[what] != size
    ]
    fits = [name for name in _fits(weights) if name != arch]
    advice = f"; it has the sizes of {fits[0]}, so try --arch {fits[0]}" if fits and shaped else ""
    if sizes and not advice:
        advice = f"; no SAM here has these sizes, so fine-tune one with those of {arch}"
    return ", ".join([*sizes, *found]) + advice


def _fits(weights: Mapping[str, Tensor]) -> list[str]:
    """Architectures that have the sizes of a checkpoint's image encoder."""
    found = _sizes(weights)
    return [
        arch
        for arch, size in ARCHITECTURES.items()
        if (size.embed_dim, size.depth, size.patch, size.width)
        == tuple(
            found.get(what)
            for what in (
                "channels of a token",
                "blocks",
                "pixels along a patch",
                "channels of the embedding",
            )
        )
    ]


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes in words; without those that the tensors do not tell."""
    sizes = {
        what: weights[name].shape[axis]
        for what, name, axis in AXES
        if name in weights and not weights[name].is_nested and weights[name].dim() > axis
    }
    tables = {
        int(found[1]): value
        for name, value in weights.items()
        if (found := re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h", name))
        and not value.is_nested
        and value.dim() == 2
    }
    if tables:
        sizes["blocks"] = max(tables) + 1
        sizes["tokens along a window"] = (min(len(table) for table in tables.values()) + 1) // 2
        sizes["channels of a head"] = tables[min(tables)].shape[1]
    return sizes


def _fitted(name: str, value: Tensor, weights: Weights, sam: Any) -> Tensor:
    """Fit a position embedding to another image size; everything else is left as it is.

    Only relative positions over the whole map change with it: others of a wrong length are a wrong model.
    """
    own = sam.image_encoder
    if name == POSITIONS and value.dim() == 4 and max(value.shape[1:3]) <= LARGEST:
        shape = own.pos_embed.shape  # [1, H, W, C]
        if value.shape != shape and value.shape[-1] == shape[-1]:
            channels_first = value.permute(0, 3, 1, 2).float()
            return F.interpolate(channels_first, size=shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
    table = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_([hw])", name)
    if table is None or int(table[1]) >= len(own.blocks) or value.dim() != 2:
        return value
    block = own.blocks[int(table[1])]
    shape = getattr(block.attn, f"rel_pos_{table[2]}").shape  # [2 side - 1, d]
    if block.window_size or value.shape == shape or value.shape[1] != shape[1] or len(value) > 2 * LARGEST:
        return value
    positions = weights.get(POSITIONS)
    side = positions.shape[1 + "hw".index(table[2])] if positions is not None and positions.dim() == 4 else 0
    window = max((block.window_size for block in own.blocks), default=0)
    if len(value) == 2 * window - 1 and len(value) != 2 * side - 1:
        return value  # of a block that attended within windows
    return F.interpolate(value.T[None].float(), size=shape[0], mode="linear")[0].T


def _resized(weights: Weights, sam: Any) -> list[str]:
    """From which image size to which positions were interpolated."""
    height, width = weights[POSITIONS].shape[1:3]
    patch, size = weights[PATCHES].shape[-1], sam.image_encoder.img_size
    given = f"{height * patch} px" if height == width else f"{height * patch} x {width * patch} px"
    keeps = (
        f", which --image-size {height * patch} would keep"
        if height == width and height * patch != size
        else ""
    )
    return [f"position embeddings of {given} interpolated to {size} px{keeps}"]
