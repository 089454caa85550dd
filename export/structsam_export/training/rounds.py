"""What a batch is asked, as SAM trains: first prompts, and then a click where their answer was wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..encoder.decoder import embed_points
from .losses import Losses, objective


class Asking(Enum):
    """How a step asks by points, and how often."""

    CLICK = auto()
    """One point, which may mean several things."""
    CLICKS = auto()
    """All points at once."""
    CORRECTED = auto()
    """One point; then its answer and a box's are given back with a click where they were wrong."""

    @classmethod
    def at(cls, step: int) -> Asking:
        """They take turns."""
        return (cls.CORRECTED, cls.CLICK, cls.CLICKS)[step % 3]


@dataclass(frozen=True)
class Group:
    """Prompts of one kind, so many for each image, those of an image together; N in all.

    Attributes:
        masks: 0..1 [N, H, W].
        known: 0..1 [N, H, W].
        chances: [N], see `Samples`.
        boxes: [N, 4], or None.
        points: [N, n, 2] and their labels [N, n], or None.
    """

    masks: Tensor
    known: Tensor
    chances: Tensor
    boxes: Tensor | None = None
    points: tuple[Tensor, Tensor] | None = None

    @property
    def prompts(self) -> tuple[Tensor, Tensor]:
        """Points [N, n, 2], corners of boxes among them, and labels [N, n] as SAM's decoder takes them."""
        parts = [] if self.points is None else [self.points]
        if self.boxes is None:
            parts.append((self.masks.new_zeros(len(self.masks), 1, 2), _labels(self.masks, -1)))
        else:
            parts.append((self.boxes.view(-1, 2, 2), _labels(self.masks, 2, 3)))
        places, labels = zip(*parts, strict=True)
        return torch.cat(places, 1), torch.cat(labels, 1)

    @property
    def answers(self) -> slice:
        """Which of the four masks answer. Three answer one point; the first answers all else."""
        alone = self.boxes is None and self.points is not None and self.points[1].shape[1] == 1
        return slice(1, None) if alone else slice(0, 1)

    def with_click(self, places: Tensor, inside: Tensor) -> Group:
        """The same with one more point each: [N, 2], x y in pixels, and whether it is inside [N]."""
        added = places[:, None], inside[:, None].long()
        points = added if self.points is None else tuple(map(_behind, self.points, added))
        return Group(self.masks, self.known, self.chances, self.boxes, points)  # type: ignore[arg-type]


def _labels(masks: Tensor, *labels: int) -> Tensor:
    """The same labels for every mask: [N, n]."""
    return torch.stack([masks.new_full((len(masks),), label, dtype=torch.int64) for label in labels], 1)


def _behind(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second], 1)


def groups(batch: dict[str, Tensor], asking: Asking) -> tuple[Group, Group]:
    """The prompts by box and those by points of a batch of `Samples`."""
    split = batch["boxes"].shape[1]
    clicks = batch["points"].shape[2] if asking is Asking.CLICKS else 1
    masks = batch["masks"].float() / 4
    known = (batch["known"].float() / 4)[:, None].expand_as(masks)
    boxed, clicked = (
        (masks[:, part].flatten(0, 1), known[:, part].flatten(0, 1), batch["chances"][:, part].flatten())
        for part in (slice(0, split), slice(split, None))
    )
    points = batch["points"][:, :, :clicks].flatten(0, 1), batch["point_labels"][:, :, :clicks].flatten(0, 1)
    return Group(*boxed, boxes=batch["boxes"].flatten(0, 1)), Group(*clicked, points=points)


@dataclass(frozen=True)
class Asked:
    """What came of a batch.

    Attributes:
        boxed: of prompts by box.
        clicked: of prompts by points.
        corrected: of both after one more click; None if none was made.
    """

    boxed: Losses
    clicked: Losses
    corrected: tuple[Losses, Losses] | None

    def total(self, share: float) -> Tensor:
        """What is minimised; the share of prompts that are boxes weighs them."""
        first = share * self.boxed.total + (1 - share) * self.clicked.total
        if self.corrected is None:
            return first
        boxed, clicked = self.corrected
        return (first + share * boxed.total + (1 - share) * clicked.total) / 2


def losses(sam: Any, batch: dict[str, Tensor], asking: Asking, bfloat16: bool) -> Asked:
    """Encode a batch of `Samples` once, and ask.

    Args:
        sam: Meta's Sam or one like it.
        batch: items of `Samples`, stacked.
        asking: how.
        bfloat16: whether to compute in it.
    """
    images = sam.preprocess(batch["image"].float())
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        features = sam.image_encoder(images)
    decoder = Decoder(sam, bfloat16)
    first, second = [], []
    for group in groups(batch, asking):
        logits, iou = (side[:, group.answers] for side in decoder(features, group))
        first.append(objective(logits, iou, group.masks, group.known))
        if asking is Asking.CORRECTED:
            best = iou.argmax(1)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            answer = logits.gather(1, best).detach().float()  # [N, 1, H, W]
            more = group.with_click(*click(answer[:, 0], group))
            logits, iou = (side[:, :1] for side in decoder(features, more, answer))
            second.append(objective(logits, iou, group.masks, group.known))
    boxed, clicked = first
    return Asked(boxed, clicked, (second[0], second[1]) if second else None)


def click(logits: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """A place where an answer is wrong, any with the same chance; inside the mask if nothing is wrong.

    Args:
        logits: [N, H, W], at half the input's resolution.
        group: the prompts they answer.

    Returns:
        [N, 2], x y in pixels of the input, and whether it belongs to the mask [N].
    """
    true = group.masks > 0.5
    wrong = ((logits > 0) != true) & (group.known > 0.5)
    candidates = torch.where(wrong.any(-1).any(-1)[:, None, None], wrong, true).flatten(1)
    count = candidates.cumsum(1)
    wanted = (group.chances[:, None] * count[:, -1:]).long() + 1  # of so many candidates, from 1
    place = torch.searchsorted(count, wanted).clamp(max=count.shape[1] - 1)
    inside = true.flatten(1).gather(1, place)[:, 0]
    row, column = place[:, 0] // logits.shape[-1], place[:, 0] % logits.shape[-1]
    return 2.0 * torch.stack([column, row], 1) + 0.5, inside


class Decoder:
    """A Sam's prompt encoder and mask decoder, for the same number of prompts for each image.

    Args:
        sam: Meta's Sam or one like it.
        bfloat16: whether the mask decoder computes in it, weights, norms and all: autocast would keep norms
            and sums in fp32, and they take most of the time. Positions of prompts need more digits.
    """

    def __init__(self, sam: Any, bfloat16: bool) -> None:
        self.prompts = sam.prompt_encoder
        self.type = torch.bfloat16 if bfloat16 else torch.float32
        self.module = _AllMasks(sam.mask_decoder)
        self.weights = {name: value.to(self.type) for name, value in self.module.named_parameters()}

    def __call__(self, features: Tensor, group: Group, answer: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All four masks of every prompt.

        Args:
            features: [B, C, h, w].
            group: N prompts.
            answer: logits [N, 1, 4 h, 4 w] that are given back; None for none.

        Returns:
            logits [N, 4, 4 h, 4 w] and predicted IoU [N, 4].
        """
        sparse = embed_points(self.prompts, *group.prompts)
        if answer is None:
            dense = self.prompts.no_mask_embed.weight[..., None, None]
        else:
            dense = self.prompts.mask_downscaling(answer)
        each = len(sparse) // len(features)
        # The decoder takes one image at a time, and adds the dense prompt to it; so images go in with that.
        dense = dense.to(self.type) + features.to(self.type).repeat_interleave(each, dim=0)
        places = self.prompts.get_dense_pe().to(self.type)
        inputs = torch.zeros_like(dense[:1]), places, sparse.to(self.type), dense
        found: tuple[Tensor, Tensor] = functional_call(self.module, self.weights, inputs)
        return found


class _AllMasks(nn.Module):
    """A mask decoder that returns all of its masks."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.decoder.predict_masks(*inputs)
        return found
