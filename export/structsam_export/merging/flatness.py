"""How flat a cell is: the order in which cells merge."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choices import Flatness
from .metric import snap, unit
from .windows import Windows


def flatness(kind: Flatness, energy: Tensor, cells: Tensor, x: Tensor, windows: Windows) -> Tensor:
    """How soon each cell merges, the largest first.

    Args:
        kind: by the energy of its tokens, as the paper does, or by their features.
        energy: [B', G, m] squared gradient magnitude of every cell's tokens.
        cells: [B', G, m] int32, those tokens.
        x: [B, H, W, c] features, fp32.
        windows: how the block cuts the map.

    Returns:
        [B', G], at most 0; a cosine from -1 to 1.
    """
    if kind is Flatness.MAX:
        return -energy.amax(-1)
    if kind is Flatness.MEAN:
        return -energy.sqrt().mean(-1)
    members = windows.cut(x, cells)  # [B', G, m, c]
    return likeness(members) if kind is Flatness.COSINE else -spread(members)


def spread(members: Tensor) -> Tensor:
    """Squared distance of a cell's tokens from their mean, in sum: what merging them destroys.

    It is m times their variance, and orders cells alike.

    Args:
        members: [B', G, m, c].

    Returns:
        [B', G], at least 0; 0 for cells of one token m times, such as padding.
    """
    return (members - members.mean(-2, keepdim=True)).square().sum((-1, -2))


def likeness(members: Tensor) -> Tensor:
    """Mean cosine of all pairs in a cell.

    With unit vectors u, |sum u|^2 = sum |u|^2 + the cosines of all ordered pairs: no pair is multiplied out.

    Args:
        members: [B', G, m, c].

    Returns:
        [B', G] in [-1, 1]; 1 for cells of zeros.
    """
    number = members.shape[2]
    direction = unit(members)
    alone = direction.square().sum((-1, -2))  # how many are not zero
    pairs = direction.sum(-2).square().sum(-1) - alone
    return torch.where(alone == 0, 1.0, snap(pairs / (number * (number - 1))))
