"""What merging does to a photograph, as pictures: energies, merged tokens, masks (figures 3, 4 and 7)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from structsam_runtime.colours import GREEN, SKY, VERMILION, WHITE, Colour

from ..encoder.attention import layer_norm
from ..encoder.patch import merged_blocks
from ..merging import MergePlan, Method, PiToMe, StructSAM, Windows, gradient_energy
from ..merging.metric import head_mean
from ..models.architectures import PATCH

Pixels = NDArray[np.uint8]
"""[h, w, 3] RGB."""
Mask = NDArray[np.bool_]

DIM, SHADE = 0.4, (20, 30, 60)
"""What merges is darker, and a little blue, so that it is told from what is dark itself."""
DOT = slice(5, 11)
"""Rows and columns of a token's pixels that are its dot."""
BOTH, GAINED, LOST = SKY, GREEN, VERMILION
FAINT, STRONG = 0.5, 0.9
"""Opacities of a mask, and of where two masks differ."""


@dataclass(frozen=True)
class BlockView:
    """What one block does with the tokens of one image. All maps are [H, W], without a window's padding.

    Attributes:
        slot: numbers of the tokens' slots among those of all windows.
        merged: whether a token shares its slot, be it with padding.
        destination: whether a token stands for the slot that it shares: the slot has its place.
        energy: see `token_energy`.
        windows: how the block cuts the map.
        slots: K, the slots of one window.
    """

    slot: NDArray[np.int64]
    merged: Mask
    destination: Mask
    energy: NDArray[np.float32] | None
    windows: Windows
    slots: int


@torch.no_grad()
def watch(encoder: Any, image: Tensor, blocks: Collection[int]) -> tuple[dict[int, BlockView], Tensor]:
    """Run a patched encoder up to the last of some blocks, and see what these do.

    Every block sees what the merging blocks before it made: the method's own features, as in the paper's
    figures, not those of the unmerged encoder.

    Args:
        encoder: a patched ImageEncoderViT.
        image: [1, 3, S, S] normalised pixels.
        blocks: numbers of blocks, at least one.

    Returns:
        The views, and the features [1, H, W, C] that the last of these blocks leaves.
    """
    x = encoder.patch_embed(image)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    views = {}
    for index, block in enumerate(merged_blocks(encoder)[: max(blocks) + 1]):
        entered = x
        x, (plan,) = block.forward_with_plans(entered)
        if index in blocks:
            energy = token_energy(block.method, layer_norm(block.norm1, entered), block.windows)
            views[index] = block_view(plan, block.windows, energy)
    return views, x


@torch.no_grad()
def finish(encoder: Any, x: Tensor, start: int) -> Tensor:
    """The blocks of a patched encoder from `start` on, and its neck: [1, H, W, C] to [1, E, H, W]."""
    for block in merged_blocks(encoder)[start:]:
        x = block(x)
    embedding: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return embedding


def token_energy(method: Method, x: Tensor, windows: Windows) -> Tensor | None:
    """What a method decides by, where that is an energy of every token (paper, figure 7).

    Args:
        method: of the block.
        x: [1, H, W, C] norm1's output.
        windows: how the block cuts the map.

    Returns:
        [H, W]. StructSAM: the gradient's magnitude G, and what is high stays. PiToMe: how much a token is
        like all tokens of its window, and what is high merges. None for other methods.
    """
    if isinstance(method, StructSAM):
        return gradient_energy(head_mean(x, method.heads), method.gradient)[0].sqrt()
    if isinstance(method, PiToMe):
        metric = windows.cut(head_mean(x, method.heads))
        return on_map(method.energy(metric, windows.side), windows)
    return None


def block_view(plan: MergePlan, windows: Windows, energy: Tensor | None) -> BlockView:
    """A plan for the windows of one image, laid out as the map; see BlockView."""
    count, slots = plan.size.shape
    window = torch.arange(count)[:, None]
    shared = plan.size > 1  # [B', K]
    destination = torch.zeros(count, windows.tokens, dtype=torch.bool)
    destination[window.expand_as(shared)[shared], plan.position[shared]] = True
    slot = on_map(plan.slot + window * slots, windows)
    return BlockView(
        slot=slot.numpy(),
        merged=shared.flatten()[slot].numpy(),
        destination=on_map(destination, windows).numpy(),
        energy=None if energy is None else energy.numpy(),
        windows=windows,
        slots=slots,
    )


def on_map(values: Tensor, windows: Windows) -> Tensor:
    """[B', N] of one image's windows to [H, W]; the padding's values are dropped."""
    rows = windows.token_of_row(1, values.device)
    return values.flatten()[rows].view(windows.height, windows.width)


def draw_merging(photo: Pixels, view: BlockView) -> Pixels:
    """The photograph as attention sees it: tokens that stay are untouched, others show their slot.

    Args:
        photo: [h, w, 3], resized for the encoder, without padding.
        view: of the block.

    Returns:
        [h, w, 3]. Tokens that share a slot show its mean colour, shaded; a white dot marks its destination.
    """
    size = photo.shape[:2]
    slot, merged = enlarge(view.slot, size), enlarge(view.merged, size)
    number = np.maximum(np.bincount(slot.ravel()), 1)
    sums = [np.bincount(slot.ravel(), photo[..., channel].ravel()) for channel in range(3)]
    colour = np.rint(DIM * np.stack(sums, -1) / number[:, None] + SHADE).astype(np.uint8)  # [slots, 3]
    drawn = np.where(merged[..., None], colour[slot], photo)
    drawn[enlarge(view.destination, size) & _dots(size)] = WHITE
    return drawn


def _dots(size: tuple[int, ...]) -> Mask:
    """[h, w] the middle of every token."""
    inside = np.zeros(PATCH, np.bool_)
    inside[DOT] = True
    down, across = (inside[np.arange(length) % PATCH] for length in size)
    return down[:, None] & across


def enlarge(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """[H, W] of tokens to [h, w] of pixels, whatever is padding cut off."""
    rows, columns = (np.arange(length) // PATCH for length in size)
    return values[np.ix_(rows, columns)]


def draw_energy(photo: Pixels, energy: NDArray[np.float32]) -> Pixels:
    """Energies [H, W] as colours from black over red to yellow, by their 1st and 99th percentile.

    Args:
        photo: [h, w, 3], for its size.
        energy: of all tokens of the map.

    Returns:
        [h, w, 3].
    """
    seen = enlarge(energy, photo.shape[:2])
    low, high = np.percentile(seen, (1, 99))
    level = np.clip((seen - low) / max(high - low, 1e-9), 0, 1)
    colours: Pixels = colormaps["inferno"](level, bytes=True)[..., :3]
    return colours


def draw_masks(photo: Pixels, before: Mask, after: Mask) -> Pixels:
    """Two masks over a pale photograph: blue where they agree, green where gained, orange where lost.

    Args:
        photo: [h, w, 3].
        before, after: [h, w]; the same mask twice shows one mask.

    Returns:
        [h, w, 3].
    """
    grey = photo.mean(-1, keepdims=True).repeat(3, -1)
    drawn = _cover(grey, np.ones_like(before), WHITE, FAINT)
    drawn = _cover(drawn, before & after, BOTH, FAINT)
    drawn = _cover(drawn, after & ~before, GAINED, STRONG)
    drawn = _cover(drawn, before & ~after, LOST, STRONG)
    return np.rint(drawn).astype(np.uint8)


def _cover(picture: NDArray[np.float64], mask: Mask, colour: Colour, opacity: float) -> NDArray[np.float64]:
    mixed = (1 - opacity) * picture + opacity * np.array(colour)
    return np.where(mask[..., None], mixed, picture)
