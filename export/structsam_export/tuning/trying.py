"""How far the masks of a whole recipe agree with those of the unmerged encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
from torch import Tensor

from structsam_runtime.check import mask_ious
from structsam_runtime.contract import IMAGE
from structsam_runtime.evaluation.metrics import Interval
from structsam_runtime.predict.prompts import BOTTOM_RIGHT
from structsam_runtime.reference import within

from ..encoder.walk import embed
from ..recipe import Recipe
from .asking import Picture
from .measuring import relative_error
from .settings import UNMERGED, everywhere, patch

LEVEL = 0.95


@dataclass(frozen=True)
class Answer:
    """What a model makes of a picture and its prompts.

    Attributes:
        embedding: [1, C, h, w].
        logits: float32 [P, 4, s, s].
        quality: float32 [P, 4], predicted IoU.
    """

    embedding: Tensor
    logits: NDArray[np.float32]
    quality: NDArray[np.float32]


class Judge:
    """Compares the masks of a merged encoder with those of the unmerged one.

    Args:
        encoder: SAM's ImageEncoderViT, on any device; left patched.
        decoder: `PromptedMaskDecoder`, on the same device.
    """

    def __init__(self, encoder: Any, decoder: Any) -> None:
        self.encoder, self.decoder = encoder, decoder
        self._unmerged: dict[str, Answer] = {}

    def unmerged(self, picture: Picture) -> Answer:
        """The answer of the unmerged encoder, computed once."""
        if picture.digest not in self._unmerged:
            self._unmerged[picture.digest] = self.answer(picture, everywhere(UNMERGED, self.encoder))
        return self._unmerged[picture.digest]

    @torch.no_grad()
    def answer(self, picture: Picture, recipe: Recipe) -> Answer:
        """The answer of the encoder with a recipe."""
        patch(self.encoder, recipe)
        embedding, _ = embed(self.encoder, self.tensor(picture))
        number, side = len(picture.prompts), 4 * embedding.shape[-1]
        feeds = [
            picture.prompts.point_coords,
            picture.prompts.point_labels,
            np.zeros((number, 1, side, side), np.float32),
            np.zeros(number, np.float32),
        ]
        logits, quality = self.decoder(embedding, *(self._moved(one) for one in feeds))
        return Answer(embedding, logits.cpu().numpy(), quality.cpu().numpy())

    def tensor(self, picture: Picture) -> Tensor:
        """[1, 3, S, S] what the encoder takes, on its device."""
        return self._moved(picture.sample.feed[IMAGE])

    def _moved(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.encoder.patch_embed.proj.weight.device)

    def logits(self, picture: Picture, answer: Answer) -> NDArray[np.float32]:
        """Of every prompt the mask that is compared, [P, s, s].

        For a box the single mask; for a point that of three which is rated best with the unmerged encoder.
        """
        boxes = (picture.prompts.point_labels == BOTTOM_RIGHT).any(1)
        best = np.where(boxes, 0, 1 + self.unmerged(picture).quality[:, 1:].argmax(1))
        return answer.logits[np.arange(len(best)), best]

    def compare(self, picture: Picture, recipe: Recipe) -> tuple[float, list[float]]:
        """The error of a recipe's embedding, and for every prompt the IoU of its mask with the unmerged one.

        Masks are those of the decoder's own resolution, inside of the picture.
        """
        made, wanted = self.answer(picture, recipe), self.unmerged(picture)
        masks = (within(self.logits(picture, one), picture.sample.frame) for one in (made, wanted))
        return relative_error(made.embedding, wanted.embedding), [float(iou) for iou in mask_ious(*masks)]


@dataclass(frozen=True)
class Tried:
    """A recipe and how well it did.

    Attributes:
        recipe: the recipe.
        label: its line in plots.
        macs: multiply-accumulates of the encoder for one image.
        predicted: the error that the sum over blocks predicts; None where a setting was not measured.
        errors: of the embedding, one for each picture, see `relative_error`.
        ious: of every prompt's mask with that of the unmerged encoder, a list for each picture.
    """

    recipe: Recipe
    label: str
    macs: int
    predicted: float | None
    errors: tuple[float, ...]
    ious: tuple[tuple[float, ...], ...]

    @property
    def error(self) -> float:
        """Mean over pictures."""
        return float(np.mean(self.errors))

    @property
    def prompts(self) -> int:
        """Number of prompts on all pictures."""
        return sum(map(len, self.ious))

    @cached_property
    def agreement(self) -> Interval:
        """Mean over pictures of the mean over prompts, with its interval; see `over_pictures`."""
        return over_pictures([float(np.mean(ious)) for ious in self.ious])


def over_pictures(means: Sequence[float]) -> Interval:
    """The mean over pictures and its two-sided 95 % interval by Student's t, cut off at 0 and 1.

    A bootstrap, as in `metrics.interval`, is too narrow for a handful of pictures: of five it resamples a
    spread that is 10 % too small, and takes 1.96 of its deviations where 2.78 are due.

    Args:
        means: one for each picture, in [0, 1]; at least two.
    """
    mean, number = float(np.mean(means)), len(means)
    half = float(t.ppf((1 + LEVEL) / 2, number - 1) * np.std(means, ddof=1) / number**0.5)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))
