"""Token energy: how much the features change around a token (paper section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choices import Border, Gradient, Scope
from .index import count
from .windows import Windows


def token_energy(x: Tensor, windows: Windows, gradient: Gradient, scope: Scope, border: Border) -> Tensor:
    """Squared gradient magnitude of every token of every window.

    Args:
        x: [B, H, W, C] features, fp32.
        windows: how the block cuts the map.
        gradient, border: see `gradient_energy`.
        scope: over the map, so that padding has energy 0; or over each window as attention sees it, where
            padding is zeros that the picture borders on.

    Returns:
        [B', N], at least 0.
    """
    if scope is Scope.MAP:
        return windows.cut(gradient_energy(x, gradient, border))
    tokens = windows.cut(x).view(-1, windows.side, windows.side, x.shape[3])
    return gradient_energy(tokens, gradient, border).flatten(1)


def gradient_energy(
    x: Tensor, gradient: Gradient = Gradient.SOBEL, border: Border = Border.REPLICATE
) -> Tensor:
    """Squared gradient magnitude G^2 of a feature map.

    The square has the same order as G, so cells are ranked and destinations chosen without a square root.
    Both operators are separable, so they are two passes of shifted additions over the map as it lies in
    memory: no transpose to channels-first, and on a CPU about half the time of a depthwise convolution.

    Args:
        x: [B, H, W, C] features, fp32.
        gradient: Sobel, or the central difference f(+1) - f(-1) of the paper's equation.
        border: what lies around the map: its own border again, or zeros.

    Returns:
        [B, H, W], at least 0.
    """
    above, below = _neighbours(x, 1, border)
    if gradient is Gradient.CENTRAL:
        left, right = _neighbours(x, 2, border)
        across, down = right - left, below - above
    else:
        left, right = _neighbours(above + 2 * x + below, 2, border)
        across = right - left
        change = below - above
        left, right = _neighbours(change, 2, border)
        down = left + 2 * change + right
    return (across * across + down * down).sum(-1)


def _neighbours(x: Tensor, dim: int, border: Border) -> tuple[Tensor, Tensor]:
    """The map shifted by one token either way along `dim`."""
    if border is Border.ZERO:
        blank, inner = torch.zeros_like(x.narrow(dim, 0, 1)), x.shape[dim] - 1
        before = torch.cat([blank, x.narrow(dim, 0, inner)], dim)
        return before, torch.cat([x.narrow(dim, 1, inner), blank], dim)
    place = count(x.shape[dim], x.device)
    previous, following = (place - 1).clamp(min=0), (place + 1).clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, previous), x.index_select(dim, following)
