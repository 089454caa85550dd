"""A small encoder, and photographs to run it on."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor, nn

from structsam_export.models.architectures import Architecture
from structsam_export.models.checkpoints import randomize, sam_modules
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare

BuildEncoder = Callable[..., Any]
Photographs = Callable[[int], Tensor]


@pytest.fixture(scope="session")
def build_encoder(tiny_architecture: Architecture) -> BuildEncoder:
    """Meta's ImageEncoderViT, small, with seeded weights: `build_encoder(image_size, **changes)`."""

    def build(image_size: int, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": 16,
            "embed_dim": tiny_architecture.embed_dim,
            "depth": tiny_architecture.depth,
            "num_heads": tiny_architecture.heads,
            "out_chans": 32,
            "use_rel_pos": True,
            "window_size": 14,
            "global_attn_indexes": tiny_architecture.global_blocks,
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        }
        encoder = sam_modules().ImageEncoderViT(**settings | changes)
        randomize(encoder)
        return encoder.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def photographs(sam: Model) -> Photographs:
    """Three photographs as the encoder takes them: `photographs(image_size)` is [3, 3, S, S]."""

    def read(image_size: int) -> Tensor:
        grid = image_size // 16
        model = replace(sam, image_size=image_size, embedding=(256, grid, grid), low_res=4 * grid)
        pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
        return torch.cat([torch.from_numpy(prepare(picture, model)[0]) for picture in pictures])

    return read
