"""The objective against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from structsam_export.training.losses import box_entropy, dice_loss, mask_iou, objective

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, -3.0, 4.0]], dtype=torch.float64)
MASKS = torch.tensor([[1.0, 0.0, 0.25], [1.0, 1.0, 1.0]], dtype=torch.float64)


def chances() -> list[tuple[float, float]]:
    pairs = zip(LOGITS.flatten().tolist(), MASKS.flatten().tolist(), strict=True)
    return [(1 / (1 + math.exp(-logit)), true) for logit, true in pairs]


def entropies() -> float:
    return sum(-(t * math.log(p) + (1 - t) * math.log(1 - p)) for p, t in chances())


def test_entropy_is_by_pixel_of_the_box() -> None:
    assert box_entropy(LOGITS, MASKS).item() == pytest.approx(entropies() / 6, rel=1e-12)
    padded = (F.pad(side, (5, 2, 1, 3), value=value) for side, value in ((LOGITS, -40.0), (MASKS, 0.0)))
    assert box_entropy(*padded).item() == pytest.approx(entropies() / 6, rel=1e-12)


@pytest.mark.parametrize("true", [0.0, 1.0])
def test_a_tiny_box_counts_as_a_hundredth_of_the_picture(true: float) -> None:
    """One pixel, or none, of 40 x 40."""
    logits, masks = torch.zeros(2, 40, 40), torch.zeros(2, 40, 40)
    masks[:, 7, 9] = true
    assert box_entropy(logits, masks).tolist() == pytest.approx([1600 * math.log(2) / 16] * 2)


def test_dice() -> None:
    overlap = sum(p * t for p, t in chances())
    areas = sum(p + t for p, t in chances())
    assert dice_loss(LOGITS, MASKS).item() == pytest.approx(1 - (2 * overlap + 1) / (areas + 1), rel=1e-12)


def test_iou() -> None:
    """Found are three pixels (a logit of 0 is not), true are four, two of them the same."""
    assert mask_iou(LOGITS, MASKS).item() == pytest.approx(2 / 5)
    nothing = mask_iou(torch.full((2, 2), -1.0), torch.zeros(2, 2))
    assert nothing.item() == 0  # and not a division by zero


def test_only_the_closest_answer_is_taught_its_shape() -> None:
    torch.manual_seed(0)
    masks = (torch.rand(2, 4, 4) > 0.5).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    right = F.avg_pool2d(masks[:, None], 2) * 8 - 4
    logits = torch.cat([-right, right, torch.zeros_like(right)], dim=1).requires_grad_()
    predicted = torch.zeros(2, 3, requires_grad=True)
    losses = objective(logits, predicted, masks)
    (losses.entropy + losses.dice).backward(retain_graph=True)
    assert (logits.grad.flatten(2).abs().sum(2) > 0).tolist() == [[False, True, False]] * 2
    losses.iou.backward()
    assert (predicted.grad != 0)[:, 1].all()
    large = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)
    actual = mask_iou(large, masks[:, None].expand(2, 3, 16, 16))
    assert torch.equal(losses.overlap, actual[:, 1].mean())
    assert losses.iou.item() == pytest.approx(actual.square().mean().item())
    assert losses.total == losses.entropy + losses.dice + losses.iou
