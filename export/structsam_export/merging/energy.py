"""Token energy: how much the features change around a token (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import Border, Gradient, Scope
from .index import count, lookup, take
from .windows import Windows

SOBEL_MACS = 18
"""Of one channel of one token: two 3x3 kernels. Here shifted additions compute it, which count nothing."""


def token_energy(
    x: Tensor,
    windows: Windows,
    gradient: Gradient,
    scope: Scope,
    border: Border,
    tokens: Tensor | None = None,
) -> Tensor:
    """Squared gradient magnitude of every token of every window.

    Args:
        x: [B, H, W, C] features, fp32.
        windows: how the block cuts the map.
        gradient, border: see `gradient_energy`.
        scope: over the map, so that padding has energy 0; or over each window as attention sees it, where
            padding is zeros that the picture borders on.
        tokens: [B', ...] int32, which tokens are wanted; all in raster order if not given.

    Returns:
        [B', N], at least 0; as `tokens` is shaped in place of N.
    """
    if scope is Scope.MAP:
        return windows.cut(gradient_energy(x, gradient, border), tokens)
    maps = windows.cut(x).view(-1, windows.side, windows.side, x.shape[3])
    energy = gradient_energy(maps, gradient, border).flatten(1)
    return energy if tokens is None else lookup(energy, tokens)


def gradient_energy(
    x: Tensor, gradient: Gradient = Gradient.SOBEL, border: Border = Border.REPLICATE
) -> Tensor:
    """Squared gradient magnitude G^2 of a feature map.

    The square has the same order as G, so cells are ranked and destinations chosen without a square root.

    Sobel's operators X and Y are the sum over a 2 x 2 box of smaller ones, and X + Y and X - Y are twice the
    difference along the two diagonals of those sums: X^2 + Y^2 = 2 (diagonal^2 + other diagonal^2). So one
    map of sums and two differences do, as for the central difference: two thirds of the passes over memory
    that smoothing and differences along both axes take, and no transpose to channels-first.

    Args:
        x: [B, H, W, C] features, fp32.
        gradient: Sobel, or the central difference f(+1) - f(-1) of the paper's equation.
        border: what lies around the map, its outermost tokens again or zeros.

    Returns:
        [B, H, W], at least 0.
    """
    if border is Border.ZERO:  # that are replicated in their turn, which nothing inside sees
        return gradient_energy(F.pad(x, (0, 0, 1, 1, 1, 1)), gradient)[:, 1:-1, 1:-1]
    shape = x.shape[:3]
    if gradient is Gradient.CENTRAL:
        factor, ends = 1, (_places(x, shape, (0, 1), (1, 0)), _places(x, shape, (0, -1), (-1, 0)))
    else:
        x = _boxes(x)
        factor, ends = 2, (_places(x, shape, (1, 1), (0, 1)), _places(x, shape, (0, 0), (1, 0)))
    after, before = (take(x.flatten(0, 2), place) for place in ends)  # [B * H * W, 2, C]
    change = after - before
    energy = (change * change).sum((1, 2))
    return (energy if factor == 1 else factor * energy).view(shape)


def gradient_macs(windows: Windows, channels: int, gradient: Gradient, scope: Scope) -> int:
    """What the gradient of one image costs, as the two depthwise convolutions that it stands for.

    Central differences are free, as in the paper's Table 5.

    Args:
        windows: how the block cuts the map.
        channels: what it is taken on.
        gradient, scope: see `token_energy`.

    Returns:
        Multiply-accumulates: over the map once, or over the tokens of all windows, padding included.
    """
    if gradient is Gradient.CENTRAL:
        return 0
    by_window = scope is Scope.WINDOW
    tokens = windows.per_image * windows.tokens if by_window else windows.height * windows.width
    return SOBEL_MACS * tokens * channels


def _boxes(x: Tensor) -> Tensor:
    """Sums of the four tokens around every corner of a map, whose borders are repeated.

    Args:
        x: [B, H, W, C].

    Returns:
        [B, H + 1, W + 1, C].
    """
    batch, height, width, channels = x.shape
    shape = batch, height + 1, width + 1
    around = (_places(x, shape, corner).flatten() for corner in ((-1, -1), (-1, 0), (0, -1), (0, 0)))
    one, two, three, four = (take(x.flatten(0, 2), place) for place in around)
    return (one + two + three + four).view(*shape, channels)


def _places(x: Tensor, shape: Sequence[int], *steps: tuple[int, int]) -> Tensor:
    """Rows of the flattened map x [B, H', W', C] that lie `steps` (down, across) from every token.

    Args:
        x: the map, whose borders are repeated.
        shape: B, H, W of the tokens that are counted from.
        steps: n of them.

    Returns:
        [B * H * W, n] int32.
    """
    image, row, column = (
        count(size, x.device).view(size, *[1] * (3 - axis)) for axis, size in enumerate(shape)
    )
    down, across = (
        torch.tensor(step, dtype=torch.int32, device=x.device) for step in zip(*steps, strict=True)
    )
    row, column = (row + down).clamp(0, x.shape[1] - 1), (column + across).clamp(0, x.shape[2] - 1)
    return ((image * x.shape[1] + row) * x.shape[2] + column).flatten(0, 2)
