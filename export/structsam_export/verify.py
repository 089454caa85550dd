"""Verify an export: compare it with PyTorch on real images.

Three measurements: plan agreement (do both merge the same tokens given the same features), the error of the
embedding with the export's plans replayed in PyTorch (is the arithmetic the same given the same plans), and
mask IoU end to end over a grid of box and point prompts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from structsam_runtime.check import cosine, mask_ious
from structsam_runtime.contract import (
    EMBEDDING,
    HAS_MASK_INPUT,
    IMAGE,
    IOU,
    MASK_INPUT,
    MASKS,
    POINT_COORDS,
    POINT_LABELS,
    PRIOR,
    decoder_specs,
    encoder_specs,
)
from structsam_runtime.errors import UserError, printable
from structsam_runtime.manifest import Model
from structsam_runtime.pictures import Once, list_pictures, read_image, say
from structsam_runtime.predict.image import Frame, picture_size, placed, resized
from structsam_runtime.predict.prior import prior
from structsam_runtime.predict.prompts import encode
from structsam_runtime.reference import within
from structsam_runtime.runners.base import Runner, TensorSpec
from structsam_runtime.thresholds import FRAGILE, THRESHOLDS, Held, misses

from .comparing import Arrays, TorchRunner, run_all
from .encoder.exported import PlannedEncoder, Told, told_plans
from .encoder.walk import embed
from .merging import MergePlan


@dataclass(frozen=True)
class Sample:
    """One image, prepared for the encoder.

    Attributes:
        name: name of the file.
        pixels: uint8 RGB [h, w, 3], resized for the model.
        feed: the encoder's inputs: `image` [1, 3, S, S] float32 and, for a prompt-aware encoder, `prior`
            [1, H, W] float32.
        frame: placement of the picture in the square input.
    """

    name: str
    pixels: NDArray[np.uint8]
    feed: Arrays
    frame: Frame


@dataclass(frozen=True)
class Answered:
    """A sample, and what PyTorch made of it.

    Attributes:
        sample: the sample.
        asked: the decoder's inputs: the embedding, float32 [1, C, h, w], and `prompts`.
        masks: logits, float32 [P, 4, 4h, 4w].
        iou: predicted IoU, float32 [P, 4].
        made: the export's embedding and masks, by name.
    """

    sample: Sample
    asked: Arrays
    masks: NDArray[np.float32]
    iou: NDArray[np.float32]
    made: Arrays


@dataclass(frozen=True)
class Report:
    """The measurements of a verification.

    Attributes:
        runner: runner of the export.
        images: names of the images.
        error: see Thresholds; embeddings have standard deviation one after their last normalisation.
        cosine: see Thresholds.
        cosine_end_to_end: smallest cosine of two embeddings, each with its own plans.
        plans: see Thresholds; None if the runner does not output plans, or if nothing merges.
        plans_by_block: the same for every block that merges, mean over images.
        mask_iou: see Thresholds.
        mask_iou_min: lowest IoU of a prompt.
        prompts: number of prompts over all images.
        fragile: whether the method's plans are sensitive to rounding; see FRAGILE.
    """

    runner: str
    images: list[str]
    error: float | None
    cosine: float | None
    cosine_end_to_end: float
    plans: float | None
    plans_by_block: dict[int, float]
    mask_iou: float
    mask_iou_min: float
    prompts: int
    fragile: bool = False

    def misses(self, precision: str) -> list[str]:
        """One line for every threshold that is missed; empty if the export passes.

        Args:
            precision: precision of the export, a key of THRESHOLDS.
        """
        want = (FRAGILE if self.fragile else THRESHOLDS)[precision]
        held = [
            Held("largest embedding error", self.error, want.error, False),
            Held("embedding cosine", self.cosine, want.cosine, True),
            Held("plan agreement", self.plans, want.plans, True),
            Held("embedding cosine end to end", self.cosine_end_to_end, want.cosine_end_to_end, True),
            Held("mask IoU", self.mask_iou, want.mask_iou, True),
        ]
        return misses(held, precision)

    def table(self) -> str:
        """The measurements as text, one per line."""
        rows = [
            ("runner", self.runner),
            ("images", ", ".join(map(printable, self.images))),
            ("largest embedding error, same plans", self.error),
            ("embedding cosine, same plans", self.cosine),
            ("embedding cosine, end to end", self.cosine_end_to_end),
            ("tokens with the same representative", self.plans),
            (f"mask IoU, mean of {self.prompts} prompts", self.mask_iou),
            ("mask IoU, lowest", self.mask_iou_min),
        ]
        shown = [(what, f"{v:.6g}" if isinstance(v, float) else v or "n/a") for what, v in rows]
        return "\n".join(f"{what:<36}  {value}" for what, value in shown)


def read_pictures(folder: Path | None) -> Arrays:
    """Pictures to verify on, by name: the user's, or three photographs of scikit-image.

    Args:
        folder: a folder of images; files that are left out are reported on stderr. None for the photographs.

    Returns:
        uint8 RGB [H, W, 3] each.

    Raises:
        UserError: no such folder, or no image in it that can be read.
    """
    if folder is None:
        from skimage import data

        return {f"skimage.{name}": getattr(data, name)() for name in ("coffee", "astronaut", "chelsea")}
    return dict(each_picture(folder, "to verify on"))


def each_picture(folder: Path, purpose: str, first: int = 0) -> Generator[tuple[str, NDArray[np.uint8]]]:
    """Read the pictures of a folder, one at a time.

    Args:
        folder: a folder of images; files that are left out are reported on stderr at the end.
        purpose: of the pictures, for messages.
        first: how many pictures, spread over the folder, come before all others; 0: by name.

    Yields:
        Name and uint8 RGB [H, W, 3].

    Raises:
        UserError: no such folder, or no image in it that can be read.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected a folder of images {purpose}")
    listing, note = list_pictures(folder, deep=False), Once()
    errors: list[UserError] = []
    any_is_one = False
    try:
        for name in spread(listing.pictures, first):
            try:
                picture = read_image(folder / name, note=note)
            except UserError as error:
                errors.append(error)
                continue
            any_is_one = True
            yield name, picture
        if not any_is_one:
            raise next(
                iter(errors), UserError(f"no image in {folder}; expected files like photo.jpg or photo.png")
            )
    finally:
        if any_is_one:
            listing.say()
            for broken in errors:
                say("skipped", f"{broken}; it is left out")


def spread(names: Sequence[str], first: int) -> list[str]:
    """All names, beginning with `first` of them at equal distances."""
    places = np.linspace(0, len(names) - 1, min(first, len(names))).round().astype(int)
    chosen = dict.fromkeys(names[place] for place in places)
    return [*chosen, *(name for name in names if name not in chosen)]


def samples(pictures: Arrays, model: Model) -> list[Sample]:
    """Pictures prepared for the encoder of a model; with several priors each, if it is prompt-aware.

    Args:
        pictures: uint8 RGB [H, W, 3] by name.
        model: sizes and normalisation of the model.
    """
    made = []
    for name, picture in pictures.items():
        frame = Frame.of(*picture_size(picture), model.image_size, model.fit)
        pixels = resized(picture, frame, model.resampling)
        image = placed(pixels, model)
        if not model.prior:
            made.append(Sample(name, pixels, {IMAGE: image}, frame))
            continue
        for what, mask in priors(frame, model).items():
            made.append(Sample(f"{name} with {what}", pixels, {IMAGE: image, PRIOR: mask}, frame))
    return made


def priors(frame: Frame, model: Model) -> Arrays:
    """Priors to verify a prompt-aware encoder with, float32 [1, h, w] by description.

    No prompt; a box over a ninth of the picture; that box and a small one in a corner.
    """
    width, height = frame.resized_width, frame.resized_height
    middle = [width / 3, height / 3, width * 2 / 3, height * 2 / 3]
    corner = [width * 3 / 4, height / 8, width * 7 / 8, height / 4]
    return {
        "no prompt": prior(model),
        "a box": prior(model, [middle]),
        "two boxes": prior(model, [middle, corner]),
    }


def verify(
    encoder: Any,
    decoder: nn.Module,
    model: Model,
    export_encoder: Runner,
    export_decoder: Runner,
    tap: Runner | None,
    pictures: Sequence[Sample],
    runner: str,
) -> tuple[Report, list[Answered]]:
    """Compare an export with the PyTorch modules that it was made from.

    Embeddings and masks come from the runners that users run. Their encoder does not output plans: a second
    runner does, and PyTorch replays these plans and is compared with the embedding of the first.

    Args:
        encoder: the patched fp32 encoder in PyTorch.
        decoder: PromptedMaskDecoder in fp32.
        model: sizes of both.
        export_encoder, export_decoder: runners of the export, opened and closed here.
        tap: a second runner of the export's encoder with its plans as outputs; None if they are not
            available: see `tapped`.
        pictures: at least one.
        runner: name of the runner, for the report.

    Returns:
        The measurements, and for every picture what PyTorch made of it.

    Raises:
        NotFiniteError: an output contains NaN or infinity.
    """
    images = [picture.feed for picture in pictures]
    theirs = run_all(export_encoder, images)
    if tap is not None:
        theirs = [plans | made for plans, made in zip(run_all(tap, images), theirs, strict=True)]
    own = run_all(_planned(encoder, model), images)
    asked = _decoder_feeds(own, pictures)
    own_masks = run_all(TorchRunner(decoder, *decoder_specs(model)), asked)
    their_masks = run_all(export_decoder, _decoder_feeds(theirs, pictures))
    answered = [
        Answered(picture, prompt, own_ones[MASKS], own_ones[IOU], embedding | masks)
        for picture, prompt, own_ones, embedding, masks in zip(
            pictures, asked, own_masks, theirs, their_masks, strict=True
        )
    ]

    everything = told_plans(encoder)
    told = [one for one in everything if one.name("slot") in theirs[0]]
    names = [one.name(what) for one in told for what in ("slot", "position")]
    same = all(np.array_equal(a[n], b[n]) for a, b in zip(own, theirs, strict=True) for n in names)
    same_plans = own if same else _replayed(encoder, theirs, images)
    by_block = {
        index: float(np.mean([_agreement(a, b, plans) for a, b in zip(same_plans, theirs, strict=True)]))
        for index, plans in _by_block(told).items()
    }
    knows_plans = len(told) == len(everything)
    ious = np.concatenate(
        [
            mask_ious(*(within(masks, one.sample.frame) for masks in (one.masks, one.made[MASKS])))
            for one in answered
        ]
    )
    report = Report(
        runner=runner,
        images=[picture.name for picture in pictures],
        error=max(map(_error, same_plans, theirs)) if knows_plans else None,
        cosine=min(map(_cosine, same_plans, theirs)) if knows_plans else None,
        cosine_end_to_end=min(map(_cosine, own, theirs)),
        plans=float(np.mean(list(by_block.values()))) if by_block else None,
        plans_by_block=by_block,
        mask_iou=float(ious.mean()),
        mask_iou_min=float(ious.min()),
        prompts=ious.shape[0],
        fragile=any(one.block.method.fragile for one in everything),
    )
    return report, answered


def _planned(encoder: Any, model: Model) -> TorchRunner:
    """The patched encoder in PyTorch with its plans as outputs."""
    inputs, outputs = encoder_specs(model)
    plans = {
        one.name(what): TensorSpec(np.dtype(np.int32), (one.windows.per_image, length))
        for one in told_plans(encoder)
        for what, length in (
            ("slot", one.windows.tokens),
            ("position", one.block.method.slots(one.windows)),
        )
    }
    return TorchRunner(PlannedEncoder(encoder), inputs, {**outputs, **plans})


def prompts(frame: Frame, side: int) -> Arrays:
    """A grid of box and point prompts over a picture, as one decoder call.

    Args:
        frame: placement of the picture in the square input.
        side: rows and columns of the decoder's masks.

    Returns:
        The decoder's inputs except the embedding: 9 points and 9 boxes, P = 18.
    """
    x, y = np.meshgrid(np.arange(1, 4) * frame.width / 4, np.arange(1, 4) * frame.height / 4)
    centers = np.stack([x.ravel(), y.ravel()], -1)  # [9, 2] pixels of the picture
    half = np.array([frame.width, frame.height]) / 5
    points = encode(frame, point_coords=centers[:, None], point_labels=np.ones((9, 1)))
    boxes = encode(frame, box=np.concatenate([centers - half, centers + half], 1))
    coords = np.concatenate([points.point_coords, boxes.point_coords])
    return {
        POINT_COORDS: coords,
        POINT_LABELS: np.concatenate([points.point_labels, boxes.point_labels]),
        MASK_INPUT: np.zeros((len(coords), 1, side, side), np.float32),
        HAS_MASK_INPUT: np.zeros(len(coords), np.float32),
    }


def _decoder_feeds(embeddings: Sequence[Arrays], pictures: Sequence[Sample]) -> list[Arrays]:
    """Inputs of the decoder for every picture."""
    return [
        {EMBEDDING: made[EMBEDDING], **prompts(picture.frame, 4 * made[EMBEDDING].shape[-1])}
        for made, picture in zip(embeddings, pictures, strict=True)
    ]


def representatives(slot: NDArray[np.int32], position: NDArray[np.int32]) -> NDArray[np.int32]:
    """The representative of each token: the token at its slot's position.

    Plans are compared by it, because the numbering of slots is arbitrary.

    Args:
        slot: [B', N], see `MergePlan.slot`.
        position: [B', K], see `MergePlan.position`.

    Returns:
        [B', N] grid indices.
    """
    return np.take_along_axis(position, slot, axis=1)


def alone(slot: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Slots [B', N] to [B', N]: whether a token is the only one in its slot."""
    return np.stack([np.bincount(row)[row] == 1 for row in slot])


def _by_block(told: Sequence[Told]) -> dict[int, list[Told]]:
    """The output plans of each block, by its index."""
    blocks: dict[int, list[Told]] = {}
    for one in told:
        blocks.setdefault(one.index, []).append(one)
    return blocks


def _agreement(a: Arrays, b: Arrays, plans: Sequence[Told]) -> float:
    """Share of a block's tokens with the same representative."""
    return float(np.concatenate([_agreeing(a, b, plan).ravel() for plan in plans]).mean())


def _agreeing(a: Arrays, b: Arrays, plan: Told) -> NDArray[np.bool_]:
    """[B', N]: whether a token has the same representative in both plans.

    If groups are consecutive tokens of a sorted order (`Method.ordered`), one swap changes all later groups:
    then a token agrees if it is merged in both plans, or kept in both.
    """
    slot, position, method = plan.name("slot"), plan.name("position"), plan.block.method
    if method.ordered:
        agreeing: NDArray[np.bool_] = alone(a[slot]) == alone(b[slot])
        return agreeing
    same: NDArray[np.bool_] = np.equal(*(representatives(made[slot], made[position]) for made in (a, b)))
    return same


def _error(a: Arrays, b: Arrays) -> float:
    """Largest absolute difference of two embeddings."""
    return float(np.abs(a[EMBEDDING] - b[EMBEDDING]).max())


def _cosine(a: Arrays, b: Arrays) -> float:
    """Of two embeddings."""
    return cosine(a[EMBEDDING], b[EMBEDDING])


@torch.no_grad()
def _replayed(encoder: Any, theirs: Sequence[Arrays], images: Sequence[Arrays]) -> list[Arrays]:
    """PyTorch's embeddings with the export's plans replayed, and PyTorch's own plans on the same features.

    Named as the outputs of `PlannedEncoder`.
    """
    told = _by_block(told_plans(encoder))
    return [_follow(encoder, told, plans, image) for plans, image in zip(theirs, images, strict=True)]


def _follow(encoder: Any, told: dict[int, list[Told]], plans: Arrays, feed: Arrays) -> Arrays:
    """`_replayed` for one image; `told` are the output plans of each block."""
    inputs = {name: torch.from_numpy(values) for name, values in feed.items()}
    decided: Arrays = {}

    def given(index: int, x: torch.Tensor) -> list[MergePlan] | None:
        """The export's plans of a block; None if it merges nothing or reuses those of a leader."""
        if index not in told:
            return None
        made: list[MergePlan] = encoder.blocks[index].decide(x, inputs.get(PRIOR))
        for one in told[index]:
            slot, position = one.name("slot"), one.name("position")
            own = made[one.group]
            decided.update({slot: own.slot.numpy(), position: own.position.numpy()})
            theirs, where = (torch.from_numpy(plans[name]) for name in (slot, position))
            made[one.group] = MergePlan.recorded(theirs, where, one.block.method.reduction)
        return made

    embedding, _ = embed(encoder, inputs[IMAGE], inputs.get(PRIOR), given)
    return {EMBEDDING: embedding.numpy(), **decided}
