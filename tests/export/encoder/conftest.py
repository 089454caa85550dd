"""A small encoder, and what SAM's attention is with merged slots, written plainly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.merging import StructSAM

Attend = Callable[..., Tensor]


def gathered_attention(
    attention: Any, x: Tensor, position: Tensor, side: int, shares: Tensor | None = None
) -> Tensor:
    """SAM's Attention before its projection, among slots [B', K, C] that stand at `position` [B', K].

    The bias is gathered for every pair of slots: q . Rh[row_i - row_j] + q . Rw[column_i - column_j]. With
    `shares` [B', K, N], of every token in a slot's place, it is the mean over all pairs of their tokens.
    """
    batch, slots, _ = x.shape
    qkv = attention.qkv(x).view(batch, slots, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B', heads, K, d] each
    logits = (query * attention.scale) @ key.transpose(2, 3)
    token = torch.arange(side * side)
    for place, vectors in zip(
        (token // side, token % side), (attention.rel_pos_h, attention.rel_pos_w), strict=True
    ):
        if shares is None:
            own = place[position.long()]
            pairs = vectors[own[:, :, None] - own[:, None] + side - 1]  # [B', K, K, d]
        else:
            pairs = vectors[place[:, None] - place + side - 1]  # [N, N, d], of every two tokens
            pairs = torch.einsum("bkm,bqmd->bqkd", shares, torch.einsum("bqn,nmd->bqmd", shares, pairs))
        logits = logits + torch.einsum("bhqd,bqkd->bhqk", query, pairs)
    return (logits.softmax(3) @ value).transpose(1, 2).reshape(batch, slots, -1)


@pytest.fixture(scope="session")
def plain_attention() -> Attend:
    """The reference of MergedAttention, up to its projection."""
    return gathered_attention


@pytest.fixture(scope="session")
def structsam() -> StructSAM:
    """The method at the paper's rate."""
    return StructSAM(0.55)


@pytest.fixture(scope="module")
def encoder(build_encoder: Callable[..., Any]) -> Any:
    """20 x 20 tokens, so that windows are padded."""
    return build_encoder(320)


@pytest.fixture(scope="module")
def features(encoder: Any, photographs: Callable[[int], Tensor]) -> Tensor:
    """[2, 20, 20, C] what the first block is given."""
    return encoder.patch_embed(photographs(320)[:2]) + encoder.pos_embed
