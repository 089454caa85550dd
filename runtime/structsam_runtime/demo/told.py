"""Masks and plans as the JSON of an answer."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..check import mask_ious
from ..predict.image import Frame
from .exports import Answer
from .taps import Plan


def masks_as_json(
    answer: Answer, first: Answer, candidates: Sequence[int], kind: str
) -> list[dict[str, Any]]:
    """The masks of an answer as JSON, each with its agreement with that of the first export.

    Args:
        answer: with K masks.
        first: the answer of the first export to the same prompt.
        candidates: what each mask is.
        kind: ``rle`` or ``png``.
    """
    shared = mask_ious(first.masks, answer.masks)
    return [
        {
            "candidate": candidate,
            "predicted_iou": round(float(quality), 4),
            "area": int(mask.sum()),
            "agreement": round(float(iou), 4),
            kind: _png(mask) if kind == "png" else _rle(mask),
        }
        for candidate, quality, mask, iou in zip(candidates, answer.iou, answer.masks, shared, strict=True)
    ]


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [H, W] as COCO's compressed run lengths."""
    from pycocotools.mask import encode

    lengths = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": lengths["counts"].decode()}


def _png(mask: NDArray[np.bool_]) -> str:
    """A mask [H, W] as a PNG of 0 and 255, in base64."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def plan_as_json(plan: Plan, frame: Frame) -> dict[str, Any]:
    """A plan as JSON, without the tokens of padding.

    Args:
        plan: of a block.
        frame: of the picture in the model's square.
    """
    patch = frame.image_size / plan.slot.shape[1]
    rows, columns = (math.ceil(side / patch) for side in (frame.resized_height, frame.resized_width))
    part = np.s_[:rows, :columns]
    return {
        "rows": rows,
        "columns": columns,
        # Width and height in pixels of the picture.
        "token": [patch * frame.width / frame.resized_width, patch * frame.height / frame.resized_height],
        "windows": plan.windows,
        "slots": plan.slots,
        "tokens": plan.tokens,
        "slot": plan.slot[part].ravel().tolist(),
        "alone": plan.alone[part].ravel().astype(int).tolist(),
        "energy": None if plan.energy is None else _levels(plan.energy[part]).ravel().tolist(),
    }


def _levels(energy: NDArray[np.float32]) -> NDArray[np.int64]:
    """Energy in whole numbers, 0 at its 1st percentile and 255 at its 99th."""
    low, high = np.percentile(energy, (1, 99))
    share = np.clip((energy - low) / max(high - low, 1e-9), 0, 1)
    levels: NDArray[np.int64] = np.rint(255 * share).astype(np.int64)
    return levels
