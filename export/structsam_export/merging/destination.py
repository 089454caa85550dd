"""Which member of a cell the others merge into."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..choices import Destination


def choose(energy: Tensor, destination: Destination, seed: int) -> Tensor:
    """The destination of every cell (paper section 3.3, destination and source token selection).

    Args:
        energy: [B', cells, m] of every member.
        destination: `min`, `max` or `random`.
        seed: of the random choice, which is the same for every window and image.

    Returns:
        [B', cells, 1] below m; of equal energies the first.

    Raises:
        ValueError: another destination.
    """
    if destination is Destination.RANDOM:
        drawn = draw(energy.shape[1], seed, energy.device)
        return (drawn * energy.shape[2]).long()[:, None].expand(*energy.shape[:2], 1)
    if destination not in (Destination.MIN, Destination.MAX):
        raise ValueError(f"{destination} does not choose by energy")
    busiest = destination is Destination.MAX
    return energy.argmax(-1, keepdim=True) if busiest else energy.argmin(-1, keepdim=True)


def draw(number: int, seed: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1), drawn by seed: [number] fp32."""
    drawn = np.random.default_rng(seed).random(number, dtype=np.float32)
    return torch.tensor(drawn.tolist(), device=device)  # a list, which a trace takes as a constant
