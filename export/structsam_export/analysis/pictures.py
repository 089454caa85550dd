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
from ..encoder.walk import Stage, enter, leave, walk
from ..merging import MergePlan, Windows

Pixels = NDArray[np.uint8]
"""[h, w, 3] RGB."""
Mask = NDArray[np.bool_]

DIM, SHADE = 0.4, (20, 30, 60)
"""What merges is darker, and a little blue, so that it is told from what is dark itself."""
MARGIN = 5 / 16
"""Share of a token's patch on every side of its dot."""
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
        energy: see `Method.scores`.
        windows: how the block cuts the map.
        slots: K, the slots of one window.
        patch: pixels along the side of a token's patch.
        reading: how to read the energy, in a few words.
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
    """Run a patched encoder up to the last of some blocks, and see what these do.

    Every block sees what the merging blocks before it made: the method's own features, as in the paper's
    figures, not those of the unmerged encoder.

    Args:
        encoder: a patched ImageEncoderViT.
        image: [1, 3, S, S] normalised pixels.
        blocks: numbers of blocks, at least one.

    Returns:
        The views, and the stage behind the last of these blocks.
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
    """The rest of a patched encoder, from where `watch` left it: the embedding [1, E, H, W]."""
    for after in walk(encoder.blocks, stage):
        stage = after
    return leave(encoder, stage)


def block_view(
    plan: MergePlan, windows: Windows, energy: Tensor | None, patch: int, reading: str = ""
) -> BlockView:
    """A plan for the windows of one image, laid out as the map; see BlockView."""
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
    """The photograph as attention sees it: tokens that stay are untouched, others show their slot.

    Args:
        photo: [h, w, 3], resized for the encoder, without padding.
        view: of the block.

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
    """[h, w] the middle of every token."""
    inside, margin = np.zeros(patch, np.bool_), round(MARGIN * patch)
    inside[margin : patch - margin] = True
    down, across = (inside[np.arange(length) % patch] for length in size)
    return down[:, None] & across


def enlarge(values: NDArray[Any], size: tuple[int, ...], patch: int) -> NDArray[Any]:
    """[H, W] of tokens to [h, w] of pixels, whatever is padding cut off."""
    rows, columns = (np.arange(length) // patch for length in size)
    return values[np.ix_(rows, columns)]


def draw_energy(photo: Pixels, energy: NDArray[np.float32], patch: int) -> Pixels:
    """Energies [H, W] as colours from black over red to yellow, by their 1st and 99th percentile.

    Args:
        photo: [h, w, 3], for its size.
        energy: of all tokens of the map.
        patch: pixels along the side of a token's patch.

    Returns:
        [h, w, 3].
    """
    seen = enlarge(energy, photo.shape[:2], patch)
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
