"""A figure of panels: the photograph, energies, merged tokens, and the change of a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from structsam_runtime.colours import WHITE, Colour, code
from structsam_runtime.evaluation.metrics import iou
from structsam_runtime.manifest import Upscaling
from structsam_runtime.predict.drawing import outlined_box
from structsam_runtime.predict.image import Frame, prepare, resized
from structsam_runtime.predict.masks import binary
from structsam_runtime.predict.prompts import Encoded

from ..config import ExportConfig
from ..description import model_of
from ..encoder import PromptedMaskDecoder, apply, remove
from ..pipeline import load
from ..progress import shown
from .pictures import (
    BOTH,
    GAINED,
    LOST,
    SHADE,
    BlockView,
    Mask,
    Pixels,
    draw_energy,
    draw_masks,
    draw_merging,
    finish,
    watch,
)

INCHES, NARROWEST, TITLE, KEY = 3.0, 2.3, 0.4, 0.9
"""In inches: side of a square panel (other panels have the same area), least width of a title, heights of
title and legend."""
COLUMNS = 5
"""Largest number of columns."""


@dataclass(frozen=True)
class Panel:
    """A picture [h, w, 3] under its title."""

    title: str
    picture: Pixels


def _swatch(colour: Colour, label: str) -> Artist:
    return Patch(facecolor=code(colour), edgecolor="black", linewidth=0.5, label=label)


def _dot(label: str) -> Artist:
    return Line2D([], [], linestyle="", marker="s", color="white", markeredgecolor="black", label=label)


TOKEN_KEY = [
    _swatch(WHITE, "unchanged: the token is kept"),
    _swatch(SHADE, "dark: tokens that merge into one, in their mean colour"),
    _dot("dot: the destination, whose position the merged token takes"),
]
MASK_KEY = [
    _swatch(BOTH, "in both masks, without and with merging"),
    _swatch(GAINED, "gained by merging"),
    _swatch(LOST, "lost by merging"),
]


def title_of(config: ExportConfig) -> str:
    """The title of a figure: model, image size and rate."""
    weights = ", random weights" if config.random_weights else ""
    return f"{config.arch}{weights}, {config.image_size} px, rate {config.rate:g}"


def panels(
    picture: Pixels, configs: Sequence[ExportConfig], blocks: Sequence[int], prompts: Encoded | None
) -> list[list[Panel]]:
    """Run every method and draw its merging: one group of panels for every block, and one for the masks.

    Args:
        picture: the photograph, uint8 RGB [h, w, 3].
        configs: one per method; they differ in the method only.
        blocks: indices of the blocks to draw, at least one.
        prompts: one box prompt; None draws no masks.
    """
    sam = load(configs[0])
    encoder = sam.image_encoder
    model = model_of(configs[0], sam)
    tensor, frame = prepare(picture, model)
    photo = resized(picture, frame, model.resampling)
    image = torch.from_numpy(tensor)
    views, masks = {}, {}
    for config in shown(configs, "methods", len(configs)):
        name = config.label
        apply(encoder, config.methods())
        views[name], stage = watch(encoder, image, blocks)
        if prompts:
            masks[name] = mask_of(sam, finish(encoder, stage), prompts, photo, model.upscaling)
    groups = [
        block_panels(photo, block, {name: seen[block] for name, seen in views.items()}) for block in blocks
    ]
    if prompts:
        remove(encoder)
        unmerged = mask_of(sam, encoder(image), prompts, photo, model.upscaling)
        groups.append(mask_panels(photo, prompts.point_coords[0], unmerged, masks))
    return groups


def mask_of(sam: Any, embedding: torch.Tensor, prompts: Encoded, photo: Pixels, upscaling: Upscaling) -> Mask:
    """The mask [h, w] of one prompt, in the size of the photograph at the encoder's input."""
    side = 4 * embedding.shape[-1]
    masks, _ = PromptedMaskDecoder(sam)(
        embedding,
        torch.from_numpy(prompts.point_coords),
        torch.from_numpy(prompts.point_labels),
        torch.zeros(1, 1, side, side),
        torch.zeros(1),
    )
    frame = Frame.of(photo.shape[0], photo.shape[1], max(photo.shape[:2]))
    return binary(masks[0, 0].numpy(), frame, sam.mask_threshold, upscaling)


def block_panels(photo: Pixels, block: int, views: Mapping[str, BlockView]) -> list[Panel]:
    """Panels of one block: the photograph, the energies of methods with scores, and the merged tokens."""
    energies = [
        Panel(f"{name}, energy in block {block}\n{view.reading}", draw_energy(photo, view.energy, view.patch))
        for name, view in views.items()
        if view.energy is not None
    ]
    merging = [
        Panel(f"{name}, block {block}\n{_counts(view)}", draw_merging(photo, view))
        for name, view in views.items()
    ]
    return [Panel("photograph", photo), *energies, *merging]


def _counts(view: BlockView) -> str:
    change = f"{view.windows.tokens} tokens to {view.slots}"
    windows = view.windows.per_image
    return f"global: {change}" if windows == 1 else f"{windows} windows: {change} each"


def mask_panels(
    photo: Pixels, corners: NDArray[np.float32], unmerged: Mask, masks: Mapping[str, Mask]
) -> list[Panel]:
    """Panels of the box, the mask without merging, and the mask of every method compared with it."""
    return [
        Panel("box prompt", draw_box(photo, corners)),
        Panel("mask without merging", draw_masks(photo, unmerged, unmerged)),
        *(
            Panel(
                f"{name}, mask\nIoU with the unmerged {iou(unmerged, mask):.3f}",
                draw_masks(photo, unmerged, mask),
            )
            for name, mask in masks.items()
        ),
    ]


def draw_box(photo: Pixels, corners: NDArray[np.float32]) -> Pixels:
    """Draw a box with corners [2, 2] (x, y) in white with a black outline, visible on any background."""
    picture = Image.fromarray(photo)
    outlined_box(
        ImageDraw.Draw(picture), corners.ravel().tolist(), WHITE, max(1, max(photo.shape[:2]) // 200)
    )
    return np.asarray(picture)


def sheet(groups: Sequence[Sequence[Panel]], title: str, key: Sequence[Artist]) -> Figure:
    """The figure: all panels, every group in new rows, with a title and a legend."""
    widest = max(map(len, groups))
    columns = math.ceil(widest / math.ceil(widest / COLUMNS))
    rows = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    height, width = groups[0][0].picture.shape[:2]
    wide, high = INCHES * (width / height) ** 0.5, INCHES * (height / width) ** 0.5
    size = columns * max(wide, NARROWEST), len(rows) * (high + TITLE) + KEY
    figure = Figure(size, dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for place in grid.flat:
        place.set_axis_off()
    for places, row in zip(grid, rows, strict=True):
        for place, panel in zip(places[: len(row)], row, strict=True):
            place.imshow(panel.picture)
            place.set_title(panel.title, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=key, loc="outside lower center", ncols=len(key) // 3, fontsize=8, frameon=False)
    return figure
