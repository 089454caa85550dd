"""What the decoder says of prompts -> masks of the picture's size, those that were asked for."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..manifest import Model
from . import masks
from .image import Frame

Decoded = tuple[NDArray[np.float32], NDArray[np.float32]]


class _Arrays(NamedTuple):
    masks: NDArray[Any]
    iou: NDArray[np.float32]
    low_res: NDArray[np.float32]


class Answers(_Arrays):
    """Masks bool or float32 [P, M, H, W], predicted IoU float32 [P, M] and logits float32 [P, M, h, w].

    Attributes:
        errors: why a prompt has no answer, by its number, from 1. Its masks are empty (logits NaN), its
            predicted IoU is NaN.
    """

    errors: Mapping[int, str] = MappingProxyType({})

    def spread(self, indices: NDArray[np.int64], errors: Mapping[int, str]) -> "Answers":
        """As many answers as prompts were given.

        Args:
            indices: int64 [P], the places of these among all of them.
            errors: of the others, by number.
        """
        if not errors:
            return self
        count = len(indices) + len(errors)
        spread = Answers(*(_spread(values, indices, count) for values in self))
        spread.errors = errors
        return spread


def _spread(values: NDArray[Any], indices: NDArray[np.int64], count: int) -> NDArray[Any]:
    empty = np.full((count, *values.shape[1:]), np.nan if values.dtype.kind == "f" else False, values.dtype)
    empty[indices] = values
    return empty


def answers(
    decoded: Iterable[tuple[slice, NDArray[np.float32], NDArray[np.float32]]],
    count: int,
    model: Model,
    frame: Frame,
    multimask: bool,
    as_logits: bool,
    best: bool,
) -> Answers:
    """Choose masks, and bring them to the picture's size.

    Args:
        decoded: as `decoding.runs` yields it.
        count: of prompts, P.
        model: gives sizes, the threshold and what is interpolated.
        frame: of the picture.
        multimask, as_logits, best: see `Predictor.predict`.
    """
    chosen = 3 if multimask and not best else 1
    low_res = np.empty((count, chosen, model.low_res, model.low_res), np.float32)
    iou = np.empty((count, chosen), np.float32)
    for part, four, quality in decoded:
        low_res[part], iou[part] = _chosen(four, quality, multimask, best)
    if as_logits:
        return Answers(masks.upscale(low_res, frame, model.upscaling), iou, low_res)
    threshold, upscaling = model.mask_threshold, model.upscaling
    return Answers(masks.binary(low_res, frame, threshold, upscaling), iou, low_res)


def _chosen(low_res: NDArray[np.float32], iou: NDArray[np.float32], multimask: bool, best: bool) -> Decoded:
    """Of four masks the first, or the other three, or the best of what that would be."""
    asked = slice(1, None) if multimask else slice(0, 1)
    low_res, iou = low_res[:, asked], iou[:, asked]
    if best:
        first = iou.argmax(axis=1)[:, None]
        iou = np.take_along_axis(iou, first, axis=1)
        low_res = np.take_along_axis(low_res, first[:, :, None, None], axis=1)
    return low_res, iou
