"""Token energy: how much the features change around a token (paper section 3.3)."""

from __future__ import annotations

from torch import Tensor

from ..choices import Gradient
from .index import count


def gradient_energy(x: Tensor, gradient: Gradient = Gradient.SOBEL) -> Tensor:
    """Squared gradient magnitude G^2 of a feature map, borders replicated.

    The square has the same order as G, so cells are ranked and destinations chosen without a square root.
    Both operators are separable, so they are two passes of shifted additions over the map as it lies in
    memory: no transpose to channels-first, and on a CPU about half the time of a depthwise convolution.

    Args:
        x: [B, H, W, C] features, fp32.
        gradient: Sobel, or the central difference f(+1) - f(-1) of the paper's equation.

    Returns:
        [B, H, W], at least 0.
    """
    above, below = _neighbours(x, 1)
    if gradient is Gradient.CENTRAL:
        left, right = _neighbours(x, 2)
        across, down = right - left, below - above
    else:
        left, right = _neighbours(above + 2 * x + below, 2)
        across = right - left
        change = below - above
        left, right = _neighbours(change, 2)
        down = left + 2 * change + right
    return (across * across + down * down).sum(-1)


def _neighbours(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The map shifted by one token either way along `dim`, its border repeated."""
    place = count(x.shape[dim], x.device)
    before, after = (place - 1).clamp(min=0), (place + 1).clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, before), x.index_select(dim, after)
