"""How well a Sam segments what a box asks for, on pictures it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from structsam_runtime.predict.image import Frame

from .data import Photos, thin_set, tight_box

SMALLEST = 32 * 32
"""Pixels of the smallest segment that counts."""


@dataclass(frozen=True)
class Scores:
    """Mean IoU over box prompts, 0..1.

    Attributes:
        photos: things of the held-out photographs.
        thin: drawn thin objects.
        prompts: how many of each.
    """

    photos: float
    thin: float
    prompts: tuple[int, int]


def validate(sam: Any, photos: Photos) -> Scores:
    """Score a Sam at its own image size: its first answer to a tight box, in the picture's pixels."""
    size = sam.image_encoder.img_size
    real = []
    for photo in photos.held_out:
        labels = np.asarray(photo.labels)
        things = [label for label in photo.things if (labels == label).sum() >= SMALLEST]
        real += box_ious(sam, np.asarray(photo.image), labels, things)
    slender = []
    for scene in thin_set(photos, size):
        objects = [label for label in scene.objects if (scene.labels == label).sum() >= 40]
        slender += box_ious(sam, scene.image, scene.labels, objects)
    return Scores(float(np.mean(real)), float(np.mean(slender)), (len(real), len(slender)))


@torch.no_grad()
def box_ious(
    sam: Any, image: NDArray[np.uint8], labels: NDArray[np.uint8], objects: list[int]
) -> list[float]:
    """IoU of every object's mask with what its tight box gives.

    Args:
        sam: Meta's Sam or one like it.
        image: uint8 [H, W, 3].
        labels: uint8 [H, W].
        objects: labels that the picture holds.
    """
    if not objects:
        return []
    device, size = sam.pixel_mean.device, sam.image_encoder.img_size
    frame = Frame.of(image.shape[0], image.shape[1], size)
    masks = labels == np.array(objects, np.uint8)[:, None, None]  # [N, H, W]
    corners = np.stack([tight_box(mask) for mask in masks]).reshape(-1, 2, 2).astype(np.float64)
    boxes = torch.from_numpy(frame.to_model(corners).reshape(-1, 4).astype(np.float32)).to(device)
    shape = (frame.resized_height, frame.resized_width)
    pixels = torch.tensor(image).to(device).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
    features = sam.image_encoder(sam.preprocess(small))
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
    logits, _ = sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    found = (sam.postprocess_masks(logits, shape, image.shape[:2])[:, 0] > 0).cpu().numpy()
    both, either = (found & masks).sum(axis=(1, 2)), (found | masks).sum(axis=(1, 2))
    return [float(value) for value in both / either]
