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
from structsam_runtime.predict.decoding import PROMPTS
from structsam_runtime.predict.prompts import BOTTOM_RIGHT
from structsam_runtime.reference import within

from ..encoder.walk import embed
from ..recipe import Recipe
from .asking import Picture
from .measuring import relative_error
from .settings import GMAC, MS, UNMERGED, everywhere, patch

LEVEL = 0.95
AT_ONCE = {"cpu": 3}
"""Prompts that are decoded at once. On a CPU the features of few prompts stay in its cache: SAM's decoder
takes 40 % less time for 18 prompts by threes than for all together."""


@dataclass(frozen=True)
class Answer:
    """What a model makes of a picture and its prompts.

    Attributes:
        embedding: [1, C, h, w].
        logits: float32 [P, s, s], of every prompt the mask that is compared.
        candidate: int64 [P], which of the decoder's four masks that is.
    """

    embedding: Tensor
    logits: NDArray[np.float32]
    candidate: NDArray[np.int64]


class Judge:
    """Compares the masks of a merged encoder with those of the unmerged one.

    Of a box the single mask is compared, and of a point the one of three that is rated best with the unmerged
    encoder; at the decoder's own resolution, inside of the picture.

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
            recipe = everywhere(UNMERGED, self.encoder)
            self._unmerged[picture.digest] = self._answer(picture, recipe, None)
        return self._unmerged[picture.digest]

    def merged(self, picture: Picture, recipe: Recipe) -> Answer:
        """The answer of the encoder with a recipe."""
        return self._answer(picture, recipe, self.unmerged(picture).candidate)

    @torch.no_grad()
    def _answer(self, picture: Picture, recipe: Recipe, candidate: NDArray[np.int64] | None) -> Answer:
        """The answer of the encoder with a recipe; without `candidate` the best masks are chosen."""
        patch(self.encoder, recipe)
        embedding, _ = embed(self.encoder, self.tensor(picture))
        asked, chosen = picture.prompts, list[NDArray[np.int64]]()
        logits = np.empty((len(asked), *(4 * side for side in embedding.shape[2:])), np.float32)
        number = AT_ONCE.get(embedding.device.type, PROMPTS)
        for start in range(0, len(asked), number):
            part = slice(start, start + number)
            coords, labels = asked.point_coords[part], asked.point_labels[part]
            none = (
                np.zeros((len(coords), 1, *logits.shape[1:]), np.float32),
                np.zeros(len(coords), np.float32),
            )
            made, quality = self.decoder(embedding, *map(self._moved, (coords, labels, *none)))
            best = _candidates(labels, quality.cpu().numpy()) if candidate is None else candidate[part]
            logits[part] = made.cpu().numpy()[np.arange(len(coords)), best]
            chosen.append(best)
        return Answer(embedding, logits, np.concatenate(chosen))

    def tensor(self, picture: Picture) -> Tensor:
        """[1, 3, S, S] what the encoder takes, on its device."""
        return self._moved(picture.sample.feed[IMAGE])

    def _moved(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.encoder.patch_embed.proj.weight.device)

    def compare(self, picture: Picture, recipe: Recipe) -> tuple[float, list[float]]:
        """The error of a recipe's embedding, and for every prompt the IoU of its mask with the unmerged one.

        Raises:
            NotFiniteError: an embedding contains NaN or infinity.
        """
        made, wanted = self.merged(picture, recipe), self.unmerged(picture)
        masks = (within(one.logits, picture.sample.frame) for one in (made, wanted))
        return relative_error(made.embedding, wanted.embedding), [float(iou) for iou in mask_ious(*masks)]


def _candidates(labels: NDArray[np.int32], quality: NDArray[np.float32]) -> NDArray[np.int64]:
    """[P] which masks to compare, for prompts with labels [P, N] and predicted IoU [P, 4]."""
    best: NDArray[np.int64] = np.where((labels == BOTTOM_RIGHT).any(1), 0, 1 + quality[:, 1:].argmax(1))
    return best


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
        nanoseconds: predicted latency for one image; None if blocks are priced by multiply-accumulates.
    """

    recipe: Recipe
    label: str
    macs: int
    predicted: float | None
    errors: tuple[float, ...]
    ious: tuple[tuple[float, ...], ...]
    nanoseconds: int | None = None

    @property
    def price(self) -> int:
        """What it is chosen by, in the unit of `Prices`."""
        return self.macs if self.nanoseconds is None else self.nanoseconds

    @property
    def told(self) -> str:
        """Its price as text."""
        return (GMAC if self.nanoseconds is None else MS).told(self.price)

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
