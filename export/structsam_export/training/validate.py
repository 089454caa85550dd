"""How well a Sam segments what it is asked for, on pictures it has not seen, by source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from structsam_runtime.predict.image import Frame

from .data import Example, thin_set, tight_box
from .photos import UNKNOWN, Photos, by_source

SMALLEST, SMALLEST_THIN = 32 * 32, 100
"""Pixels of the smallest object that counts, and of the smallest thin one."""
MOST = 8
"""Objects of a picture that are asked for, the largest."""
DRAWN = "drawn thin"
"""The name of what `thin_set` draws, beside the sources."""


@dataclass(frozen=True)
class Score:
    """Of one source, each a mean over its objects, 0..1.

    Attributes:
        box: IoU of the answer to the tight box.
        click: IoU of the answer to the point deepest inside that the model itself thinks best.
        error: distance between the predicted IoU and the true one, over both answers.
        objects: how many.
    """

    box: float
    click: float
    error: float
    objects: int


def validate(sam: Any, photos: Photos, pictures: int | None = None, scenes: int = 40) -> dict[str, Score]:
    """Score a Sam at its own image size, in the pictures' pixels.

    Args:
        sam: Meta's Sam or one like it, on any device.
        photos: whose held-out pictures are asked for.
        pictures: of each source at most; None for all.
        scenes: how many drawn ones of thin objects.

    Returns:
        Sources that have objects, in their order, and then what is drawn.
    """
    found = {
        source: [answers(sam, one) for one in examples]
        for source, examples in held_out(photos, sam.image_encoder.img_size, pictures, scenes).items()
    }
    return {source: _score(np.concatenate(rows)) for source, rows in found.items() if rows}


def held_out(
    photos: Photos, size: int, pictures: int | None = None, scenes: int = 40
) -> dict[str, list[Example]]:
    """What is asked for: of every picture the largest objects.

    Args:
        photos: whose held-out pictures are read.
        size: pixels along the side of the drawn scenes.
        pictures: of each source at most; None for all.
        scenes: how many drawn ones of thin objects.

    Returns:
        Pictures with at least one object, by source; and last what is drawn.
    """
    found: dict[str, list[Example]] = {}
    for source, members in by_source(photos.held_out).items():
        found[source] = []
        for photo in members[:pictures]:
            labels = np.asarray(photo.labels)
            objects = _largest(labels, photo.things, SMALLEST_THIN if photo.thin else SMALLEST)
            found[source].append(Example(np.asarray(photo.image), labels, objects))
    found[DRAWN] = [
        Example(scene.image, scene.labels, _largest(scene.labels, scene.objects, 40))
        for scene in thin_set(photos, size, scenes)
    ]
    return {source: [one for one in examples if one.objects] for source, examples in found.items()}


def _largest(labels: NDArray[np.uint8], objects: tuple[int, ...], least: int) -> tuple[int, ...]:
    """The largest objects of at least so many pixels."""
    areas = np.bincount(labels.ravel(), minlength=256)
    large = sorted((label for label in objects if areas[label] >= least), key=lambda label: -areas[label])
    return tuple(large[:MOST])


def _score(rows: NDArray[np.float64]) -> Score:
    true, predicted = rows[:, ::2], rows[:, 1::2]
    box, point = true.T
    error = np.abs(true - predicted).mean()
    return Score(
        round(float(box.mean()), 4), round(float(point.mean()), 4), round(float(error), 4), len(rows)
    )


@torch.no_grad()
def answers(sam: Any, example: Example) -> NDArray[np.float64]:
    """True and predicted IoU of what a tight box gives, and of what one click gives: [objects, 4].

    Args:
        sam: Meta's Sam or one like it.
        example: a picture of any size [H, W, 3] with at least one object.
    """
    device, size = sam.pixel_mean.device, sam.image_encoder.img_size
    frame = Frame.of(example.labels.shape[0], example.labels.shape[1], size)
    masks = example.labels == np.array(example.objects, np.uint8)[:, None, None]  # [N, H, W]

    def placed(corners: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(frame.to_model(corners).astype(np.float32)).to(device)

    boxes = placed(np.stack([tight_box(mask) for mask in masks]).reshape(-1, 2, 2).astype(np.float64))
    points = placed(np.stack([_deepest(mask) for mask in masks])[:, None])
    shape = (frame.resized_height, frame.resized_width)
    pixels = torch.tensor(example.image).to(device).permute(2, 0, 1)[None].float()
    features = sam.image_encoder(
        sam.preprocess(F.interpolate(pixels, shape, mode="bilinear", antialias=True))
    )
    inside = torch.ones(len(points), 1, dtype=torch.int64, device=device)
    columns = []
    for prompt in ({"points": None, "boxes": boxes.flatten(1)}, {"points": (points, inside), "boxes": None}):
        with torch.autocast(device.type, enabled=False):  # positions need more digits than bfloat16 has
            sparse, dense = sam.prompt_encoder(**prompt, masks=None)
            places = sam.prompt_encoder.get_dense_pe()
        logits, iou = sam.mask_decoder(
            image_embeddings=features,
            image_pe=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=prompt["boxes"] is None,
        )
        best = iou.argmax(1, keepdim=True)
        chosen = logits.float().gather(1, best[..., None, None].expand(-1, 1, *logits.shape[2:]))
        found = (sam.postprocess_masks(chosen, shape, masks.shape[1:])[:, 0] > 0).cpu().numpy()
        columns += [_iou(found, masks, example.labels != UNKNOWN), iou.float().gather(1, best)[:, 0].cpu()]
    return np.stack(columns, axis=1).astype(np.float64)


def _deepest(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """x y of the pixel of a mask that is farthest from all others."""
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    depth = ndimage.distance_transform_edt(np.pad(mask[y0 : y1 + 1, x0 : x1 + 1], 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return np.array([x0 + column, y0 + row], np.float64)


def _iou(found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N] of [N, H, W], over the pixels that are known."""
    both, either = (found & true & known).sum(axis=(1, 2)), ((found | true) & known).sum(axis=(1, 2))
    return np.asarray(both / either, np.float64)
