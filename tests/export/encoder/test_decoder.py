"""The exportable decoder against SAM's own prompt encoder and mask decoder."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.encoder import PromptedMaskDecoder
from structsam_export.models.checkpoints import build_sam, randomize

SIDE, GRID = 256, 16


@pytest.fixture(scope="module")
def sam() -> Any:
    """SAM on a small image; the encoder, which is not asked, stays without data."""
    with torch.device("meta"):
        sam = build_sam("vit_b", SIDE)
    sam.image_encoder = torch.nn.Identity()
    sam.to_empty(device="cpu")
    randomize(sam)
    return sam


@dataclass
class Prompt:
    """P prompts as SAM's prompt encoder takes them."""

    points: Tensor | None = None  # [P, N, 2]
    labels: Tensor | None = None  # [P, N]
    boxes: Tensor | None = None  # [P, 4]
    masks: Tensor | None = None  # [P, 1, 64, 64]


def sams_masks(sam: Any, embedding: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The single mask and then the three, as SAM gives them in two calls: [P, 4, 64, 64] and [P, 4]."""
    points = None if prompt.points is None else (prompt.points, prompt.labels)
    sparse, dense = sam.prompt_encoder(points, prompt.boxes, prompt.masks)
    made = [
        sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask)
        for multimask in (False, True)
    ]
    return torch.cat([made[0][0], made[1][0]], 1), torch.cat([made[0][1], made[1][1]], 1)


def own_masks(sam: Any, embedding: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The same from the module that is exported, whose caller writes out SAM's padding point and corners."""
    given = [value for value in (prompt.points, prompt.boxes, prompt.masks) if value is not None]
    count = len(given[0]) if given else 1
    coords, labels = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.int32)
    if prompt.points is not None and prompt.labels is not None:
        coords, labels = prompt.points, prompt.labels.int()
        if prompt.boxes is None:
            coords = torch.cat([coords, torch.zeros(count, 1, 2)], 1)
            labels = torch.cat([labels, torch.full((count, 1), -1, dtype=torch.int32)], 1)
    if prompt.boxes is not None:
        coords = torch.cat([coords, prompt.boxes.view(-1, 2, 2)], 1)
        labels = torch.cat([labels, torch.tensor([[2, 3]], dtype=torch.int32).expand(count, -1)], 1)
    nothing = torch.full((count, 1, 4 * GRID, 4 * GRID), 7.0)  # must not count
    mask, has_mask = (nothing, 0.0) if prompt.masks is None else (prompt.masks, 1.0)
    return PromptedMaskDecoder(sam)(embedding, coords, labels, mask, torch.full((count,), has_mask))


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


BOXES = torch.tensor([[10.0, 20, 200, 180], [0, 0, 255, 255], [30.5, 40.25, 90, 250]])
LABELS = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
PROMPTS = {
    "one point": Prompt(points=drawn(1, 1, 2) * SIDE, labels=torch.ones(1, 1)),
    "points of three prompts": Prompt(points=drawn(3, 4, 2) * SIDE, labels=LABELS),
    "points that a person padded": Prompt(points=drawn(3, 4, 2) * SIDE, labels=LABELS * 2 - 1),
    "a box": Prompt(boxes=BOXES[:1]),
    "three boxes": Prompt(boxes=BOXES),
    "points and boxes": Prompt(points=drawn(3, 4, 2) * SIDE, labels=LABELS, boxes=BOXES),
    "boxes and masks": Prompt(boxes=BOXES, masks=20 * drawn(3, 1, 64, 64) - 10),
    "points and a mask": Prompt(
        points=drawn(1, 4, 2) * SIDE, labels=LABELS[:1], masks=20 * drawn(1, 1, 64, 64) - 10
    ),
    "a mask alone": Prompt(masks=20 * drawn(1, 1, 64, 64) - 10),
}


@pytest.mark.parametrize("what", PROMPTS)
def test_masks_and_their_quality_are_sams(sam: Any, what: str) -> None:
    """Both do the same sums but for the order of some, so they differ by fp32 rounding of the logits."""
    embedding = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(0))
    masks, quality = own_masks(sam, embedding, PROMPTS[what])
    sams, sams_quality = sams_masks(sam, embedding, PROMPTS[what])
    assert masks.shape == sams.shape
    assert sams.std() > 0.1, "masks are not nothing"
    assert torch.allclose(masks, sams, rtol=0, atol=1e-5 * float(sams.abs().max()))
    assert torch.allclose(quality, sams_quality, rtol=0, atol=1e-5 * float(sams_quality.abs().max()))


def test_prompts_of_one_call_do_not_see_each_other(sam: Any) -> None:
    embedding = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(0))
    together, _ = own_masks(sam, embedding, PROMPTS["three boxes"])
    for index in range(3):
        alone, _ = own_masks(sam, embedding, Prompt(boxes=BOXES[index : index + 1]))
        tolerance = 1e-5 * float(alone.abs().max())  # products of another batch sum in another order
        assert torch.allclose(together[index : index + 1], alone, rtol=0, atol=tolerance)


def test_a_mask_counts_only_for_the_prompts_that_have_one(sam: Any) -> None:
    embedding = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(0))
    module, mask = PromptedMaskDecoder(sam), PROMPTS["boxes and masks"].masks
    coords, labels = BOXES.view(-1, 2, 2), torch.tensor([[2, 3]], dtype=torch.int32).expand(3, -1)
    mixed, _ = module(embedding, coords, labels, mask, torch.tensor([1.0, 0.0, 1.0]))
    with_masks, _ = module(embedding, coords, labels, mask, torch.ones(3))
    without, _ = module(embedding, coords, labels, mask, torch.zeros(3))
    assert torch.equal(mixed[[0, 2]], with_masks[[0, 2]])
    assert torch.equal(mixed[1], without[1])
    assert not torch.equal(with_masks[1], without[1])


def test_absent_places_weigh_nothing(sam: Any) -> None:
    """Prompts of one, two and five places in one call give what each gives alone."""
    embedding = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(0))
    module = PromptedMaskDecoder(sam)
    coords = drawn(3, 5, 2) * SIDE
    labels = torch.tensor([[1, -2, -2, -2, -2], [2, 3, -2, -2, -2], [1, 0, 1, 1, -1]], dtype=torch.int32)
    nothing = torch.zeros(3, 1, 4 * GRID, 4 * GRID)
    masks, quality = module(embedding, coords, labels, nothing, torch.zeros(3))
    for index, there in enumerate((1, 2, 5)):
        one = slice(index, index + 1)
        alone, its_quality = module(
            embedding, coords[one, :there], labels[one, :there], nothing[one], torch.zeros(1)
        )
        tolerance = 1e-5 * float(alone.abs().max())  # products of another batch sum in another order
        assert torch.allclose(masks[one], alone, rtol=0, atol=tolerance)
        assert torch.allclose(quality[one], its_quality, rtol=0, atol=1e-5 * float(quality.abs().max()))
    padded = labels.masked_fill(labels == -2, -1)  # what a filler that is seen would do
    seen, _ = module(embedding, coords, padded, nothing, torch.zeros(3))
    assert float((seen[0] - masks[0]).abs().max()) > 100 * 1e-5 * float(masks[0].abs().max())


def test_a_mask_alone_is_a_prompt_of_absent_places(sam: Any) -> None:
    embedding = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(0))
    mask = 20 * drawn(1, 1, 4 * GRID, 4 * GRID) - 10
    absent = torch.full((1, 2), -2, dtype=torch.int32)
    masks, _ = PromptedMaskDecoder(sam)(embedding, torch.zeros(1, 2, 2), absent, mask, torch.ones(1))
    sams, _ = sams_masks(sam, embedding, Prompt(masks=mask))
    assert torch.allclose(masks, sams, rtol=0, atol=1e-5 * float(sams.abs().max()))
