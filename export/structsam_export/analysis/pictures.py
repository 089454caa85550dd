"""Pictures of merging on a photograph: energies, merged tokens, masks (figures 3, 4 and 7 of the paper)."""

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
from ..encoder.walk import Stage, enter, leave, walk
from ..merging import MergePlan, Windows

Pixels = NDArray[np.uint8]
"""[h, w, 3] RGB."""
Mask = NDArray[np.bool_]

DIM, SHADE = 0.4, (20, 30, 60)
"""Merged tokens are darker and slightly blue, to distinguish them from dark areas of the photograph."""
MARGIN = 5 / 16
"""Margin of a token's dot on every side, as a share of its patch."""
BOTH, GAINED, LOST = SKY, GREEN, VERMILION
FAINT, STRONG = 0.5, 0.9
"""Opacity of a mask, and of the difference of two masks."""


@dataclass(frozen=True)
class BlockView:
    """The merging of one block on one image. All maps are [H, W], without padding.

    Attributes:
        slot: index of each token's slot among the slots of all windows.
        merged: whether a token shares its slot, also with padding.
        destination: whether a token shares its slot and the slot has its position.
        energy: see `Method.scores`; None for methods without scores.
        windows: the block's attention windows.
        slots: K, the slots of one window.
        patch: side of a token's patch, in pixels.
        reading: legend of the energy, a few words.
    """

    slot: NDArray[np.int64]
    merged: Mask
    destination: Mask
    energy: NDArray[np.float32] | None
    windows: Windows
    slots: int
    patch: int
    reading: str = ""


@torch.no_grad()
def watch(encoder: Any, image: Tensor, blocks: Collection[int]) -> tuple[dict[int, BlockView], Stage]:
    """Run a patched encoder up to the last of some blocks, and return a view of each of them.

    Features are those of the merged encoder, as in the paper's figures, not those of the unmerged one.

    Args:
        encoder: a patched ImageEncoderViT.
        image: [1, 3, S, S] normalised pixels.
        blocks: indices of blocks, at least one.

    Returns:
        The views by block, and the stage after the last of these blocks.
    """
    before, views = enter(encoder, image), {}
    patch = image.shape[-1] // before.x.shape[2]
    for index, after in zip(range(max(blocks) + 1), walk(encoder.blocks, before), strict=False):
        if index in blocks:
            block, (plan,) = encoder.blocks[index], after.plans[index]
            scores = block.method.scores(layer_norm(block.norm1, before.x), block.windows)
            energy = None if scores is None else scores[0]
            views[index] = block_view(plan, block.windows, energy, patch, block.method.reading)
        before = after
    return views, before


@torch.no_grad()
def finish(encoder: Any, stage: Stage) -> Tensor:
    """Run the rest of a patched encoder after `watch`; returns the embedding [1, E, H, W]."""
    for after in walk(encoder.blocks, stage):
        stage = after
    return leave(encoder, stage)


def block_view(
    plan: MergePlan, windows: Windows, energy: Tensor | None, patch: int, reading: str = ""
) -> BlockView:
    """The view of a plan for the windows of one image; see `BlockView` for the arguments."""
    count, slots = plan.size.shape
    window = torch.arange(count)[:, None]
    shared = plan.size > 1  # [B', K]
    destination = torch.zeros(count, windows.tokens, dtype=torch.bool)
    destination[window.expand_as(shared)[shared], plan.position[shared]] = True
    slot = windows.joined(plan.slot + window * slots)[0]
    return BlockView(
        slot=slot.numpy(),
        merged=shared.flatten()[slot].numpy(),
        destination=windows.joined(destination)[0].numpy(),
        energy=None if energy is None else energy.numpy(),
        windows=windows,
        slots=slots,
        patch=patch,
        reading=reading,
    )


def draw_merging(photo: Pixels, view: BlockView) -> Pixels:
    """Draw merged tokens on the photograph: kept tokens are unchanged, merged tokens show their slot.

    Args:
        photo: uint8 [h, w, 3], resized for the encoder, without padding.
        view: the view of the block.

    Returns:
        [h, w, 3]. Tokens that share a slot show its mean colour, shaded; a white dot marks its destination.
    """
    size = photo.shape[:2]
    slot, merged, destination = (
        enlarge(values, size, view.patch) for values in (view.slot, view.merged, view.destination)
    )
    number = np.maximum(np.bincount(slot.ravel()), 1)
    sums = [np.bincount(slot.ravel(), photo[..., channel].ravel()) for channel in range(3)]
    colour = np.rint(DIM * np.stack(sums, -1) / number[:, None] + SHADE).astype(np.uint8)  # [slots, 3]
    drawn = np.where(merged[..., None], colour[slot], photo)
    drawn[destination & _dots(size, view.patch)] = WHITE
    return drawn


def _dots(size: tuple[int, ...], patch: int) -> Mask:
    """A mask [h, w] of a dot in the middle of every token's patch."""
    inside, margin = np.zeros(patch, np.bool_), round(MARGIN * patch)
    inside[margin : patch - margin] = True
    down, across = (inside[np.arange(length) % patch] for length in size)
    return down[:, None] & across


def enlarge(values: NDArray[Any], size: tuple[int, ...], patch: int) -> NDArray[Any]:
    """Repeat a map of tokens [H, W] to pixels [h, w]; padding is cut off."""
    rows, columns = (np.arange(length) // patch for length in size)
    return values[np.ix_(rows, columns)]


def draw_energy(photo: Pixels, energy: NDArray[np.float32], patch: int) -> Pixels:
    """Draw energies in colours from black over red to yellow, between their 1st and 99th percentile.

    Args:
        photo: [h, w, 3], for its size.
        energy: [H, W], one value per token.
        patch: side of a token's patch, in pixels.

    Returns:
        [h, w, 3].
    """
    seen = enlarge(energy, photo.shape[:2], patch)
    low, high = np.percentile(seen, (1, 99))
    level = np.clip((seen - low) / max(high - low, 1e-9), 0, 1)
    colours: Pixels = colormaps["inferno"](level, bytes=True)[..., :3]
    return colours


def draw_masks(photo: Pixels, before: Mask, after: Mask) -> Pixels:
    """Draw two masks on a pale photograph: blue where they agree, green where gained, orange where lost.

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
