"""Token energy: the gradient magnitude of the features at a token (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import Border, Gradient, Scope
from .index import count, lookup, take
from .windows import Windows

SOBEL_MACS = 18
"""Multiply-accumulates for one channel of one token: two 3x3 kernels.

Here shifted additions compute Sobel, in which a counter of matrix products sees nothing.
"""


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
        windows: the block's attention windows.
        gradient, border: see `gradient_energy`.
        scope: `map` computes the gradient over the whole map, and padding has energy 0. `window` computes it
            over each window as attention sees it, where padding tokens are zeros beside the image.
        tokens: [B', ...] int32, the tokens to return; by default all, in raster order.

    Returns:
        [B', N], at least 0; with `tokens`, the shape of `tokens`.
    """
    if scope is Scope.MAP:
        return windows.cut(gradient_energy(x, gradient, border), tokens)
    maps = windows.cut(x).view(-1, windows.side, windows.side, x.shape[3])
    energy = gradient_energy(maps, gradient, border).flatten(1)
    return energy if tokens is None else lookup(energy, tokens)


def gradient_energy(
    x: Tensor, gradient: Gradient = Gradient.SOBEL, border: Border = Border.REPLICATE
) -> Tensor:
    """Squared gradient magnitude G^2 of a feature map (paper section 3.3, energy estimation).

    The square has the same order as G, so cells are ranked and destinations chosen without a square root.

    Sobel from 2 x 2 box sums: let S be the map of those sums, and X and Y the two Sobel responses. X + Y and
    X - Y are twice the differences of S along its two diagonals, so X^2 + Y^2 = 2 (d1^2 + d2^2). One map of
    sums and two differences are two thirds of the memory passes of the separable filters, and need no
    transpose to channels-first.

    Args:
        x: [B, H, W, C] features, fp32.
        gradient: Sobel, or the central difference f(+1) - f(-1) of the paper's equation.
        border: padding around the map: replicate its outermost tokens, or zeros.

    Returns:
        [B, H, W], at least 0.
    """
    if border is Border.ZERO:  # a ring of zeros; its own border only affects tokens that are cropped
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
    """Multiply-accumulates of the gradient of one image, counted as two depthwise convolutions.

    Central differences cost none, as in the paper's Table 5.

    Args:
        windows: the block's attention windows.
        channels: channels of the features that the gradient is computed on.
        gradient, scope: see `token_energy`.

    Returns:
        Multiply-accumulates over the map (`map`), or over the tokens of all windows, padding included
        (`window`).
    """
    if gradient is Gradient.CENTRAL:
        return 0
    by_window = scope is Scope.WINDOW
    tokens = windows.per_image * windows.tokens if by_window else windows.height * windows.width
    return SOBEL_MACS * tokens * channels


def _boxes(x: Tensor) -> Tensor:
    """Sums of the four tokens around every corner of a map with replicated borders.

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
    """Row indices into the flattened map x [B, H', W', C] of the neighbours at given offsets.

    Args:
        x: the map; its borders are replicated.
        shape: (B, H, W), the grid of tokens that the offsets start from.
        steps: n offsets (down, across), -1, 0 or 1 each.

    Returns:
        [B * H * W, n] int32.
    """
    image = count(shape[0], x.device).view(-1, 1, 1, 1)
    row, column = (
        torch.stack([_shifted(size, step, x.shape[axis], x.device) for step in moves], 1)
        for axis, size, moves in zip((1, 2), shape[1:], zip(*steps, strict=True), strict=True)
    )
    return ((image * x.shape[1] + row[:, None]) * x.shape[2] + column).flatten(0, 2)


def _shifted(size: int, step: int, length: int, device: torch.device) -> Tensor:
    """[size] int32: `step` (-1, 0 or 1), step + 1, ..., where -1 and `length` are replicated borders.

    Not clamped: `torch.compile` (PyTorch 2.13) does not bound indices that were.
    """
    place = count(size, device) + step
    if step < 0:
        place = place + (place < 0).to(torch.int32)
    if size + step > length:
        place = place - (place >= length).to(torch.int32)
    return place
