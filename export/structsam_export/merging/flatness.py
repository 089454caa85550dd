"""How flat a cell is: the order in which cells merge."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choices import Flatness
from .metric import snap, unit
from .windows import Windows


def flatness(kind: Flatness, energy: Tensor, cells: Tensor, x: Tensor, windows: Windows) -> Tensor:
    """Flatness score of every cell; cells with larger scores merge first (paper section 3.3).

    Args:
        kind: from the energy of a cell's tokens (`max` as in the paper, `mean` of Table 4), or from their
            features (`variance` and `cosine`, ours).
        energy: [B', G, m] squared gradient magnitude of every token of a cell.
        cells: [B', G, m] int32, token indices of the cells.
        x: [B, H, W, c] features, fp32.
        windows: the block's attention windows.

    Returns:
        [B', G], at most 0; for `cosine` in [-1, 1].
    """
    if kind is Flatness.MAX:
        return -energy.amax(-1)
    if kind is Flatness.MEAN:
        return -energy.sqrt().mean(-1)
    members = windows.cut(x, cells)  # [B', G, m, c]
    return likeness(members) if kind is Flatness.COSINE else -spread(members)


def spread(members: Tensor) -> Tensor:
    """Sum of squared distances of a cell's tokens from their mean: the squared error of merging them.

    It is m times their variance and gives the same order.

    Args:
        members: [B', G, m, c], the features of every cell's tokens.

    Returns:
        [B', G], at least 0; 0 for cells of m identical tokens, such as padding.
    """
    return (members - members.mean(-2, keepdim=True)).square().sum((-1, -2))


def likeness(members: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs of tokens in a cell.

    For unit vectors u, |sum u|^2 = sum |u|^2 + the sum of cosines of all ordered pairs, so the pairs need not
    be multiplied out.

    Args:
        members: [B', G, m, c], the features of every cell's tokens.

    Returns:
        [B', G] in [-1, 1]; 1 for cells of zeros (padding).
    """
    number = members.shape[2]
    direction = unit(members)
    alone = direction.square().sum((-1, -2))  # number of nonzero tokens
    pairs = direction.sum(-2).square().sum(-1) - alone
    return torch.where(alone == 0, 1.0, snap(pairs / (number * (number - 1))))
