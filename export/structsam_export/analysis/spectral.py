"""The change of the token graph's spectrum by merging (paper section 4 and appendix D).

The tokens of an attention window are the nodes of a weighted graph. A merge plan partitions them; coarsening
the graph by that partition and lifting it back gives a graph on the same nodes. The discrepancy of the two
spectra, summed over the windows of a block, is the paper's SD (eq. 1), and summed over all blocks D_enc
(eq. 2).

In two points the paper is open, or this code differs from its text.

The weights. "Cosine-type affinities" through a Lipschitz map psi (proof of Proposition 1) leave psi open.
Ours is psi(c) = max(c, 0), with a Lipschitz constant of 1, and self-loops have the weight psi(1) = 1.
Proposition 1 needs them: it compares all entries of two rows, and without self-loops even two identical
tokens would have different rows, and merging them would change the spectrum. Padding tokens belong to the
window, as they do in attention; see `token_graph`.

The degrees of the coarse graph. Lemma 1 says that the lifted spectrum is the coarse one and N - n ones. With
the block averages of eq. 3 and their plain row sums as degrees, that fails in general once parts differ in
size: a lifted node of part i has the degree sum_j |V_j| W_c[i, j], not sum_j W_c[i, j], so D_l^-1 W_l acts on
the parts as D_l^-1 W_c S with S = diag(|V_i|). The lemma holds for S W_c S, the graph of block sums, whose
normalised Laplacian is the printed one if all parts have the same size. With block sums, coarsening step by
step also equals coarsening at once, which the telescoping of Theorem 2 assumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh
from scipy.sparse import csr_array
from torch import Tensor

from ..encoder.attention import layer_norm
from ..encoder.patch import original, windows_of
from ..encoder.walk import enter, walk
from ..merging import Method, Windows

Floats = NDArray[np.float64]
Slots = NDArray[np.integer[Any]]


def token_graph(features: ArrayLike) -> Floats:
    """Weights W[i, j] = max(cos(v_i, v_j), 0) between the tokens of a window.

    A zero vector has no direction. Padding tokens are zero vectors, and here they share one extra direction,
    orthogonal to every other token. So merging padding with padding changes nothing, merging it into the
    image does, and every degree is at least 1, the token's self-loop (d_min of eq. 9).

    Args:
        features: [N, C], finite.

    Returns:
        [N, N] symmetric, in [0, 1], with a diagonal of 1 up to rounding.
    """
    v = np.asarray(features, np.float64)
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    zero = norm == 0
    unit = np.hstack([v / np.where(zero, 1, norm), zero])
    weights: Floats = np.clip(unit @ unit.T, 0, 1)
    return weights


def normalized_laplacian(weights: Floats) -> Floats:
    """I - D^-1/2 W D^-1/2 (eq. 4); D is the diagonal of the row sums of W.

    Args:
        weights: [N, N], symmetric and nonnegative.

    Returns:
        [N, N].

    Raises:
        ValueError: a node has no positive degree (eq. 9).
    """
    degree = weights.sum(1)
    if not (degree > 0).all():  # also refuses NaN
        raise ValueError("every node needs a positive degree")
    scale = 1 / np.sqrt(degree)
    laplacian: Floats = weights * -scale
    laplacian *= scale[:, None]
    laplacian.flat[:: len(weights) + 1] += 1
    return laplacian


def spectrum(weights: Floats) -> Floats:
    """Eigenvalues of the normalised Laplacian of a graph [N, N]: [N], ascending, from 0 to 2."""
    values: Floats = eigvalsh(normalized_laplacian(weights), overwrite_a=True)
    return values


def block_sums(weights: Floats, slot: Slots) -> tuple[Floats, NDArray[np.int64]]:
    """Total weight between the parts of a partition, S W_c S in the terms of eq. 3.

    Args:
        weights: [N, N].
        slot: [N], the part of every node; n distinct integers, in whose order the parts are returned.

    Returns:
        Sums [n, n], and the size of every part [n].
    """
    _, part, size = np.unique(slot, return_inverse=True, return_counts=True)
    nodes = np.arange(len(part))
    member = csr_array((np.ones(len(part)), (part, nodes)))  # [n, N], a one for every node
    sums: Floats = (member @ (member @ weights).T).T
    return sums, size


def coarsen(weights: Floats, slot: Slots) -> Floats:
    """W_c, the mean weight between the parts of a partition (eq. 3). See `block_sums` for the arguments.

    Its normalised Laplacian is not the one of Lemma 1, unless all parts have the same size; see the module
    docstring, and `lifted_spectrum`.

    Returns:
        [n, n].
    """
    sums, size = block_sums(weights, slot)
    return sums / np.outer(size, size)


def lift(coarse: Floats, slot: Slots) -> Floats:
    """W_l: every pair of nodes gets the weight of its parts (eq. 5).

    Args:
        coarse: [n, n], the result of `coarsen` for the same `slot`.
        slot: [N], the part of every node.

    Returns:
        [N, N].
    """
    _, part = np.unique(slot, return_inverse=True)
    return coarse[np.ix_(part, part)]


def lifted_spectrum(weights: Floats, slot: Slots) -> Floats:
    """`spectrum(lift(coarsen(weights, slot), slot))` by Lemma 1: only n x n eigenvalues are computed.

    Args:
        weights: [N, N].
        slot: [N], the part of every node, n distinct ones.

    Returns:
        [N], ascending: the eigenvalues of the graph of block sums, and N - n ones.
    """
    sums, _ = block_sums(weights, slot)
    ones = np.ones(len(weights) - len(sums))
    return np.sort(np.concatenate([spectrum(sums), ones]))


def window_discrepancy(features: ArrayLike, slots: Slots) -> Floats:
    """One window's term of SD (eq. 1), for several partitions of the same tokens.

    Eigenvalues are compared in ascending order. The result is 0 up to rounding if only identical tokens share
    a slot, so also if nothing merges.

    Args:
        features: [N, C].
        slots: [P, N], the slot of every token under each of P partitions.

    Returns:
        [P], nonnegative.
    """
    weights = token_graph(features)
    eigenvalues = spectrum(weights)
    return np.array([np.abs(eigenvalues - lifted_spectrum(weights, slot)).sum() for slot in slots])


def block_discrepancy(features: ArrayLike, slots: Slots) -> Floats:
    """SD of one block (eq. 1): the sum over its windows.

    Args:
        features: [B', N, C], the tokens of every window.
        slots: [P, B', N], the slot of every token under each of P plans.

    Returns:
        [P], nonnegative.
    """
    windows = zip(np.asarray(features), np.moveaxis(slots, 1, 0), strict=True)
    total: Floats = np.sum([window_discrepancy(*window) for window in windows], axis=0)
    return total


@dataclass(frozen=True)
class BlockDistortion:
    """The spectral discrepancy of one block, by method.

    Attributes:
        index: index of the block.
        attends_in_windows: whether this is a window block.
        windows: the block's attention windows.
        slots: K, the slots of one window, by method.
        discrepancy: SD (eq. 1), by method.
    """

    index: int
    attends_in_windows: bool
    windows: Windows
    slots: Mapping[str, int]
    discrepancy: Mapping[str, float]


def encoder_distortion(
    encoder: Any, image: Tensor, methods: Mapping[str, Sequence[Method]]
) -> Iterator[BlockDistortion]:
    """SD of every block on one image, for several methods.

    Every method plans on the features of the unmerged encoder, so SD compares only partitions. In a merged
    encoder, the features of later blocks would differ between methods, and SD would include that drift. This
    is our interpretation, as is the choice of features: norm1's output, from which plans are made. The
    content of a slot (a mean or one token) and its position do not affect a spectrum.

    Args:
        encoder: SAM's ImageEncoderViT on the CPU, patched or not; its original blocks are used, and it is not
            changed.
        image: [1, 3, S, S] normalised pixels, on the CPU.
        methods: by name, one method per block.

    Yields:
        One result per block, in order.
    """
    for index, (features, windows) in enumerate(attended(encoder, image)):
        chosen = {name: per_block[index] for name, per_block in methods.items()}
        slots = [method.plan(features, windows).slot.numpy() for method in chosen.values()]
        values = block_discrepancy(windows.cut(features).numpy(), np.stack(slots))
        yield BlockDistortion(
            index,
            bool(original(encoder.blocks[index]).window_size),
            windows,
            {name: method.slots(windows) for name, method in chosen.items()},
            dict(zip(chosen, values.tolist(), strict=True)),
        )


@torch.no_grad()
def attended(encoder: Any, image: Tensor) -> Iterator[tuple[Tensor, Windows]]:
    """The input of attention in every block of the unmerged encoder.

    Args:
        encoder: SAM's ImageEncoderViT, patched or not.
        image: [B, 3, S, S] normalised pixels.

    Yields:
        For each block, norm1's output [B, H, W, C] and the block's attention windows.
    """
    blocks, before = [original(block) for block in encoder.blocks], enter(encoder, image)
    for block, windows, after in zip(blocks, windows_of(encoder), walk(blocks, before), strict=True):
        yield layer_norm(block.norm1, before.x), windows
        before = after


def encoder_sums(blocks: Sequence[BlockDistortion]) -> dict[str, float]:
    """D_enc (eq. 2), the sum of SD over the given blocks, by method."""
    return {name: sum(block.discrepancy[name] for block in blocks) for name in blocks[0].discrepancy}
