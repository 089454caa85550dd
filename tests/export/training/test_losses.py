"""The objective against plain loops."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from structsam_export.training.losses import box_entropy, dice_loss, mask_iou, objective

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, -3.0, 4.0]], dtype=torch.float64)
MASKS = torch.tensor([[1.0, 0.0, 0.25], [1.0, 1.0, 1.0]], dtype=torch.float64)


def chances() -> list[tuple[float, float]]:
    pairs = zip(LOGITS.flatten().tolist(), MASKS.flatten().tolist(), strict=True)
    return [(1 / (1 + math.exp(-logit)), true) for logit, true in pairs]


def entropies() -> float:
    return sum(-(t * math.log(p) + (1 - t) * math.log(1 - p)) for p, t in chances())


def test_entropy_is_by_pixel_of_the_box() -> None:
    known = torch.ones_like(MASKS)
    assert box_entropy(LOGITS, MASKS, known).item() == pytest.approx(entropies() / 6, rel=1e-12)
    padded = [
        F.pad(side, (5, 2, 1, 3), value=value)
        for side, value in ((LOGITS, -40.0), (MASKS, 0.0), (known, 1.0))
    ]
    assert box_entropy(*padded).item() == pytest.approx(entropies() / 6, rel=1e-12)


@pytest.mark.parametrize("true", [0.0, 1.0])
def test_a_tiny_box_counts_as_a_hundredth_of_the_picture(true: float) -> None:
    """One pixel, or none, of 40 x 40."""
    logits, masks = torch.zeros(2, 40, 40), torch.zeros(2, 40, 40)
    masks[:, 7, 9] = true
    found = box_entropy(logits, masks, torch.ones_like(masks))
    assert found.tolist() == pytest.approx([1600 * math.log(2) / 16] * 2)


def test_dice() -> None:
    overlap = sum(p * t for p, t in chances())
    areas = sum(p + t for p, t in chances())
    found = dice_loss(LOGITS, MASKS, torch.ones_like(MASKS)).item()
    assert found == pytest.approx(1 - (2 * overlap + 1) / (areas + 1), rel=1e-12)


def test_iou() -> None:
    """Found are three pixels (a logit of 0 is not), true are four, two of them the same."""
    known = torch.ones(2, 3)
    assert mask_iou(LOGITS, MASKS, known).item() == pytest.approx(2 / 5)
    known[1, 0] = 0  # one that is true and not found
    assert mask_iou(LOGITS, MASKS, known).item() == pytest.approx(2 / 4)
    nothing = mask_iou(torch.full((2, 2), -1.0), torch.zeros(2, 2), torch.ones(2, 2))
    assert nothing.item() == 0  # and not a division by zero


@pytest.mark.parametrize("loss", [box_entropy, dice_loss, mask_iou])
def test_what_is_not_known_counts_for_nothing(loss: Callable[..., Tensor]) -> None:
    """Neither what is answered there nor what the labels hold, within the mask's box or outside."""
    torch.manual_seed(0)
    logits, masks = torch.randn(20, 8, 8), torch.zeros(20, 8, 8)
    masks[:, 1:6, 2:7] = 1
    known = (torch.rand(8, 8) > 0.3).float().expand(20, -1, -1)
    known = known.clone()
    known[:, 0:7, 1:8] = 1
    known[:, 3, 3:5] = 0
    other = torch.where(known > 0, logits, torch.randn(20, 8, 8) * 5)
    assert torch.equal(loss(logits, masks, known), loss(other, masks, known))
    assert not torch.equal(
        loss(logits, masks, torch.ones_like(known)), loss(other, masks, torch.ones_like(known))
    )


def test_only_the_closest_answer_is_taught_its_shape() -> None:
    torch.manual_seed(0)
    masks = (torch.rand(2, 8, 8) > 0.5).float()
    right = masks[:, None] * 8 - 4
    logits = torch.cat([-right, right, torch.zeros_like(right)], dim=1).requires_grad_()
    predicted = torch.zeros(2, 3, requires_grad=True)
    known = torch.ones_like(masks)
    losses = objective(logits, predicted, masks, known)
    (losses.entropy + losses.dice).backward(retain_graph=True)
    assert (logits.grad.flatten(2).abs().sum(2) > 0).tolist() == [[False, True, False]] * 2
    losses.iou.backward()
    assert (predicted.grad != 0)[:, 1].all()
    actual = mask_iou(logits, masks[:, None].expand(2, 3, 8, 8), known[:, None].expand(2, 3, 8, 8))
    assert torch.equal(losses.overlap, actual[:, 1].mean())
    assert losses.iou.item() == pytest.approx(actual.square().mean().item())
    assert losses.total == losses.entropy + losses.dice + losses.iou
