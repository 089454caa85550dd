"""Features that tokens are compared by, and rounding of scores."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
"""Lower bound of a norm before dividing by it: padding is exactly zero."""


def head_mean(x: Tensor, heads: int) -> Tensor:
    """[..., C] features to their mean over heads, [..., C / heads]; `heads` 1 changes nothing.

    Merging happens before queries and keys exist, so features replace them, as in the authors' code. The
    paper's Table 5 counts this: 64 channels for ViT-B and ViT-L.
    """
    return x if heads == 1 else x.view(*x.shape[:-1], heads, -1).mean(-2)


def unit(x: Tensor) -> Tensor:
    """[..., c] vectors normalised to length one; zeros (padding) stay zeros, where x / |x| would be NaN."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=EPS)


def snap(score: Tensor) -> Tensor:
    """Scores of magnitude about one, rounded to multiples of 2^-20, a few units in the last place of fp32.

    Identical tokens must tie, so that their index decides and not the rounding of one runtime.
    """
    return (score * 2**20).round() / 2**20
