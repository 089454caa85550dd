"""The training objective: cross entropy and dice on masks, squared error on predicted IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 0.01
"""Share of the picture that a mask's box counts as at least, so that tiny objects do not drown all others."""


@dataclass(frozen=True)
class Losses:
    """Of one batch, each averaged over prompts; scalars.

    Attributes:
        entropy: of the masks that count: see `objective`.
        dice: of the same masks.
        iou: mean squared error of the predicted IoU of every mask.
        overlap: their actual IoU, to look at.
    """

    entropy: Tensor
    dice: Tensor
    iou: Tensor
    overlap: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.entropy + self.dice + self.iou


def box_entropy(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Binary cross entropy, summed over the picture and divided by the pixels of the mask's tight box.

    Outside of its box nearly every pixel is easy: a mean over the picture, as in SAM's focal loss, leaves a
    small object almost no gradient. From one set of weights, 250 steps of this gave 0.597 where focal gave
    0.580, in mean IoU on held-out photographs, and 0.265 where it gave 0.255 on thin objects.

    Args:
        logits: [..., H, W].
        masks: 0..1, same shape.
        known: 0..1, same shape: how much of a pixel counts.

    Returns:
        [...].
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks, weight=known, reduction="none")
    inside = masks > 0.5
    least = LEAST * masks.shape[-2] * masks.shape[-1]
    extent = _extent(inside.any(-1)) * _extent(inside.any(-2))
    return entropy.sum(dim=(-2, -1)) / extent.clamp(min=least)


def _extent(line: Tensor) -> Tensor:
    """From the first to the last true place of bool [..., L], both counted: [...]; 0 if none is true."""
    ever, still = line.cumsum(-1) > 0, line.flip(-1).cumsum(-1).flip(-1) > 0
    return (ever & still).sum(-1)


def dice_loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """One minus twice the overlap by the sum of the areas, of probabilities.

    Args:
        logits: [..., H, W].
        masks: 0..1, same shape.
        known: 0..1, same shape: how much of a pixel counts.

    Returns:
        [...], 0..1.
    """
    chance, true = torch.sigmoid(logits) * known, masks * known
    overlap = (chance * masks).sum(dim=(-2, -1))
    areas = chance.sum(dim=(-2, -1)) + true.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (areas + 1)


def mask_iou(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """IoU of the masks at threshold 0 [...], from [..., H, W] all, over pixels that are mostly known."""
    counts = known > 0.5
    found, true = (logits > 0) & counts, (masks > 0.5) & counts
    both = (found & true).sum(dim=(-2, -1))
    either = (found | true).sum(dim=(-2, -1))
    return both / either.clamp(min=1)


def objective(logits: Tensor, predicted_iou: Tensor, masks: Tensor, known: Tensor) -> Losses:
    """The loss for one way of prompting: all terms weigh the same.

    Of several masks for one prompt, only the one with the least loss is taught its shape, so that they learn
    to be different answers; all are taught their IoU.

    Args:
        logits: [N, T, H, W], T answers to each of N prompts.
        predicted_iou: [N, T].
        masks: 0..1 [N, H, W].
        known: 0..1 [N, H, W], how much of a pixel counts.
    """
    large = logits.float()
    true, counts = masks[:, None].expand_as(large), known[:, None].expand_as(large)
    entropy, dice = box_entropy(large, true, counts), dice_loss(large, true, counts)  # [N, T]
    best = (entropy + dice).argmin(dim=1, keepdim=True)
    with torch.no_grad():
        actual = mask_iou(large, true, counts)
    return Losses(
        entropy=entropy.gather(1, best).mean(),
        dice=dice.gather(1, best).mean(),
        iou=F.mse_loss(predicted_iou.float(), actual),
        overlap=actual.gather(1, best).mean(),
    )
