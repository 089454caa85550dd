"""A small SAM with photographs to run it on, and the grid that StructSAM's tests share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor, nn

from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import randomize, sam_modules
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare

BuildEncoder = Callable[..., Any]
Photographs = Callable[[int], Tensor]

TINY = Architecture(
    embed_dim=64, depth=4, heads=2, global_blocks=(1, 3), file="sam_tiny.pth", sha256="0" * 64
)


@pytest.fixture(scope="session")
def tiny_architecture() -> Architecture:
    """SAM's structure at its smallest."""
    return TINY


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture like SAM's in everything but its size, known to every command while a test runs."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    return "tiny"


@pytest.fixture(scope="session")
def build_encoder() -> BuildEncoder:
    """Meta's ImageEncoderViT, small, with seeded weights: `build_encoder(image_size, **changes)`."""

    def build(image_size: int, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": 16,
            "embed_dim": TINY.embed_dim,
            "depth": TINY.depth,
            "num_heads": TINY.heads,
            "out_chans": 32,
            "use_rel_pos": True,
            "window_size": 14,
            "global_attn_indexes": TINY.global_blocks,
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
