"""SAM's training objective: focal and dice on masks, squared error on predicted IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL, DICE, IOU = 20.0, 1.0, 1.0
"""Weights of the three terms (Segment Anything, section A)."""


@dataclass(frozen=True)
class Losses:
    """Of one batch, each averaged over prompts; scalars.

    Attributes:
        focal: of the masks that count: see `objective`.
        dice: of the same masks.
        iou: mean squared error of the predicted IoU of every mask.
        overlap: their actual IoU, to look at.
    """

    focal: Tensor
    dice: Tensor
    iou: Tensor
    overlap: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return FOCAL * self.focal + DICE * self.dice + IOU * self.iou


def focal_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy, weighted by the squared error of the probability; mean over pixels.

    Args:
        logits: [..., H, W].
        masks: 0..1, same shape.

    Returns:
        [...].
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    wrong = torch.sigmoid(logits) - masks
    return (wrong.square() * entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus twice the overlap by the sum of the areas, of probabilities.

    Args:
        logits: [..., H, W].
        masks: 0..1, same shape.

    Returns:
        [...], 0..1.
    """
    chance = torch.sigmoid(logits)
    overlap = (chance * masks).sum(dim=(-2, -1))
    areas = chance.sum(dim=(-2, -1)) + masks.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (areas + 1)


def mask_iou(logits: Tensor, masks: Tensor) -> Tensor:
    """IoU of the masks at threshold 0 [...], from [..., H, W] both."""
    found, true = logits > 0, masks > 0.5
    both = (found & true).sum(dim=(-2, -1))
    either = (found | true).sum(dim=(-2, -1))
    return both / either.clamp(min=1)


def objective(logits: Tensor, predicted_iou: Tensor, masks: Tensor) -> Losses:
    """SAM's loss for one way of prompting.

    Of several masks for one prompt, only the one with the least loss is taught its shape, so that they learn
    to be different answers; all are taught their IoU.

    Args:
        logits: [N, T, h, w], T answers to each of N prompts, at the decoder's resolution.
        predicted_iou: [N, T].
        masks: 0..1 [N, H, W], finer than the answers, where boundaries and thin parts are decided.
    """
    large = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    true = masks[:, None].expand_as(large)
    focal, dice = focal_loss(large, true), dice_loss(large, true)  # [N, T]
    best = (FOCAL * focal + DICE * dice).argmin(dim=1, keepdim=True)
    with torch.no_grad():
        actual = mask_iou(large, true)
    return Losses(
        focal=focal.gather(1, best).mean(),
        dice=dice.gather(1, best).mean(),
        iou=F.mse_loss(predicted_iou.float(), actual),
        overlap=actual.gather(1, best).mean(),
    )
