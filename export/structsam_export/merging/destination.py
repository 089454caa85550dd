"""The destination of a cell: the token that the others merge into."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..choices import Destination
from .index import constant, count, lookup


def choose(energy: Tensor, destination: Destination, seed: int) -> Tensor:
    """The destination of every cell (paper section 3.3, destination and source token selection).

    Args:
        energy: [B', cells, m], energy of every token of a cell.
        destination: `min`, `max` or `random`.
        seed: seed of the random choice, which is the same for every window and image.

    Returns:
        [B', cells, 1] int64, from 0 to m - 1; the first of equal energies.

    Raises:
        ValueError: `destination` is not one of these three.
    """
    if destination is Destination.RANDOM:
        drawn = draw(energy.shape[1], seed, energy.device)
        return (drawn * energy.shape[2]).long()[:, None].expand(*energy.shape[:2], 1)
    if destination not in (Destination.MIN, Destination.MAX):
        raise ValueError(f"{destination} does not choose by energy")
    busiest = destination is Destination.MAX
    return energy.argmax(-1, keepdim=True) if busiest else energy.argmin(-1, keepdim=True)


def split(cells: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Split the tokens of all cells into destinations and sources.

    Args:
        cells: [B', G, m] int32, token indices.
        member: [B', G, 1], from 0 to m - 1, the token of each cell that is its destination.

    Returns:
        Destinations [B', G] and sources [B', G (m - 1)], int32 token indices, cell by cell. The sources of a
        cell start after its destination and wrap around.
    """
    number, members = cells.shape[1:]
    start, member = count(number, cells.device)[:, None] * members, member.to(torch.int32)
    others = (member + 1 + count(members - 1, cells.device)) % members
    destination, source = (lookup(cells.flatten(1), (start + which).flatten(1)) for which in (member, others))
    return destination, source


def draw(number: int, seed: int, device: torch.device) -> Tensor:
    """Random numbers in [0, 1) from a seeded generator: [number] fp32."""
    return constant(np.random.default_rng(seed).random(number, dtype=np.float32), device)
