"""What tokens are compared by."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
"""Norms below this count as it: padding is exactly zero."""


def head_mean(x: Tensor, heads: int) -> Tensor:
    """[..., C] features to their mean over heads, [..., C / heads]; `heads` 1 leaves them as they are.

    Merging happens before queries and keys exist, so this stands for them, as in the authors' code. It is
    what the paper's Table 5 prices: 64 channels for ViT-B and ViT-L.
    """
    return x if heads == 1 else x.view(*x.shape[:-1], heads, -1).mean(-2)


def unit(x: Tensor) -> Tensor:
    """[..., c] vectors to length one; zeros (padding) stay zeros, where x / |x| would be NaN."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=EPS)


def snap(score: Tensor) -> Tensor:
    """Scores of order one, rounded to 2^-20, a few units of what fp32 holds.

    Identical tokens must tie, so that their index decides, whatever the last bits of a runtime say.
    """
    return (score * 2**20).round() / 2**20
