"""The training run: stages of growing image size, warm-up, constant rate and decay, resumable at any step."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from structsam_runtime.errors import UserError
from structsam_runtime.files import whole_file

from ..models.architectures import DEFAULT
from ..models.checkpoints import build_sam, load_weights
from .data import Photos, Samples
from .losses import Losses, objective
from .muon import Muon
from .validate import validate

ARCH = DEFAULT
MATRIX_RATE, RATE = 1e-3, 5e-4
"""Learning rates of the transformers' matrices and of all else, between warm-up and decay."""
WARMUP = 60
"""Steps in which the rate rises."""
DECAY = 0.75
"""Last share of a run's own steps, in which the rate falls to zero."""
AVERAGING = 0.999
"""Of the weights, from step to step; the average is what is validated and exported."""
LOG_EVERY, VALIDATE_EVERY = 20, 500
SAVE_SECONDS = 180.0


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one image size.

    Attributes:
        start: the step it begins with; it lasts until the next one's start.
        size: pixels along the side of the input.
        batch: images a step.
    """

    start: int
    size: int
    batch: int


STAGES = (Stage(0, 224, 8), Stage(8000, 448, 3), Stage(11000, 512, 3))
"""224 and 448 pixels are one and four whole windows of tokens: at other sizes windows hold padding, up to
three times the work. Detail of the final scale is learnt from crops long before the final size."""


@dataclass(frozen=True)
class Settings:
    """What a run is.

    Attributes:
        folder: where checkpoints and curves go.
        steps: where it ends; the rate decays towards it.
        device: PyTorch's name of it.
        workers: processes that draw samples; 0 is none beside this one.
        bfloat16: compute in it where that is safe; faster on processors and GPUs that have it.
        seed: of weights and samples.
        first: the step that it begins with; not 0 if it goes on from weights alone.
        stages: see STAGES.
    """

    folder: Path
    steps: int
    device: str = "cpu"
    workers: int = 1
    bfloat16: bool = False
    seed: int = 0
    first: int = 0
    stages: tuple[Stage, ...] = STAGES

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.pt"

    @property
    def stable(self) -> Path:
        """The checkpoint from before the rate fell, which a longer run goes on from."""
        return self.folder / "stable.pt"

    @property
    def curves(self) -> Path:
        """One JSON object a line."""
        return self.folder / "curves.jsonl"

    @property
    def decay_from(self) -> int:
        """The step at which the rate begins to fall."""
        return self.steps - int(DECAY * (self.steps - self.first))

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return [stage for stage in self.stages if stage.start <= step][-1]

    def pace(self, step: int) -> float:
        """What the learning rates are multiplied with at a step, 0..1."""
        falling = (self.steps - step) / max(1, self.steps - self.decay_from)
        return min(1.0, (step + 1 - self.first) / WARMUP, falling)


@dataclass
class Run:
    """All that training changes; what a checkpoint holds.

    Attributes:
        sam: in training.
        average: the same with averaged weights.
        optimizers: of sam's parameters.
        step: steps done.
    """

    sam: Any
    average: Any
    optimizers: tuple[torch.optim.Optimizer, ...]
    step: int


def _weights(size: int, device: str, state: dict[str, Tensor] | None) -> Any:
    sam = build_sam(ARCH, size)
    if state is not None:
        load_weights(sam, state, ARCH, "the checkpoint")
    return sam.to(device)


def _optimizers(sam: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the transformers, AdamW for everything else.

    From scratch at 224 px Muon's loss was 1.67 after 200 steps where AdamW's was 2.02.
    """
    linear = {id(layer.weight) for layer in sam.modules() if isinstance(layer, nn.Linear)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in sam.named_parameters():
        inner = id(value) in linear and ("blocks." in name or "transformer." in name)
        (matrices if inner else others).append(value)
    return (
        Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )


def begin(settings: Settings, weights: dict[str, Tensor] | None = None) -> Run:
    """A run from fresh weights, or from those of another run, whose optimizer's state is not needed."""
    torch.manual_seed(settings.seed)
    size = settings.stage(settings.first).size
    sam = _weights(size, settings.device, weights).train().requires_grad_(True)
    return Run(sam, copy.deepcopy(sam).requires_grad_(False), _optimizers(sam), settings.first)


def restore(saved: dict[str, Any], size: int, device: str) -> Run:
    """A run from a checkpoint's content, at any image size.

    Positions are interpolated to the size; what the optimizer knew of those whose shape changed is dropped.
    """
    sam = _weights(size, device, saved["sam"]).train().requires_grad_(True)
    average = _weights(size, device, saved["average"])
    optimizers = _optimizers(sam)
    for optimizer, known in zip(optimizers, saved["optimizers"], strict=True):
        parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        fitting = {
            index: known["state"][index]
            for index, value in enumerate(parameters)
            if index in known["state"] and _fits(known["state"][index], value)
        }
        optimizer.load_state_dict({**known, "state": fitting})
    return Run(sam, average, optimizers, saved["step"])


def _fits(known: dict[str, Tensor], value: Tensor) -> bool:
    """Whether what an optimizer knows of a parameter has its shape; counters have none."""
    return all(one.shape == value.shape for one in known.values() if one.dim())


def content(run: Run, settings: Settings) -> dict[str, Any]:
    """What a checkpoint holds. Samples and rates follow from the step, so no generator's state is needed."""
    return {
        "sam": run.sam.state_dict(),
        "average": run.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "step": run.step,
        "steps": settings.steps,
    }


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train first, or give -o the folder of a run")
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def resume(settings: Settings) -> Run:
    """Go on where the folder's run stopped; from before its decay, if this run is to end elsewhere."""
    saved = read(settings.last)
    ended = dataclasses.replace(settings, steps=saved["steps"])
    if settings.steps != ended.steps and saved["step"] > ended.decay_from:
        saved = read(settings.stable)
    if settings.curves.is_file():
        lines = settings.curves.read_text().splitlines(keepends=True)
        settings.curves.write_text("".join(x for x in lines if json.loads(x)["step"] <= saved["step"]))
    return restore(saved, settings.stage(saved["step"]).size, settings.device)


def train(run: Run, settings: Settings, photos: Photos, told: Callable[[dict[str, Any]], None]) -> None:
    """Train to the last step.

    Args:
        run: changed in place.
        settings: what to do.
        photos: to draw samples from.
        told: called with every record that is added to the curves.
    """
    saved_at = time.monotonic()

    def record(**values: Any) -> None:
        with settings.curves.open("a") as curves:
            curves.write(json.dumps(values) + "\n")
        told(values)

    while run.step < settings.steps:
        stage = settings.stage(run.step)
        if run.sam.image_encoder.img_size != stage.size:
            resized = restore(content(run, settings), stage.size, settings.device)
            run.sam, run.average, run.optimizers = resized.sam, resized.average, resized.optimizers
        window: list[dict[str, float]] = []
        began = time.monotonic()
        for batch in _batches(photos, settings, run.step):
            if run.step == settings.decay_from:
                save(settings.stable, run, settings)
            window.append(_step(run, settings, batch))
            run.step += 1
            if run.step % LOG_EVERY == 0:
                means = {key: round(sum(x[key] for x in window) / len(window), 5) for key in window[0]}
                seconds = (time.monotonic() - began) / len(window)
                record(step=run.step, size=stage.size, pace=settings.pace(run.step), seconds=seconds, **means)
                window, began = [], time.monotonic()
            if run.step % VALIDATE_EVERY == 0 or run.step == settings.steps:
                scores = validate(run.average, photos)
                record(step=run.step, size=stage.size, validation=dataclasses.asdict(scores))
                began = time.monotonic()
            if time.monotonic() - saved_at > SAVE_SECONDS or run.step == settings.steps:
                save(settings.last, run, settings)
                saved_at = time.monotonic()


def save(path: Path, run: Run, settings: Settings) -> None:
    """Write a checkpoint, whole or not at all."""
    with whole_file(path) as part:
        torch.save(content(run, settings), part)


def _batches(photos: Photos, settings: Settings, step: int) -> Iterator[dict[str, Tensor]]:
    """The batches from a step to the end of its stage."""
    stage = settings.stage(step)
    later = [other.start for other in settings.stages if other.start > step]
    stop = min([*later, settings.steps])
    samples = Samples(photos, stage.size, step * stage.batch, stop * stage.batch, settings.seed)
    return iter(DataLoader(samples, stage.batch, num_workers=settings.workers))


def _step(run: Run, settings: Settings, batch: dict[str, Tensor]) -> dict[str, float]:
    """One update of the weights and their average."""
    pace = settings.pace(run.step)
    for optimizer, rate in zip(run.optimizers, (MATRIX_RATE, RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * pace
    batch = {name: value.to(settings.device, non_blocking=True) for name, value in batch.items()}
    clicks = 1 if run.step % 3 else batch["points"].shape[2]
    boxed, clicked = losses(run.sam, batch, clicks, settings.bfloat16)
    share = batch["boxes"].shape[1] / batch["masks"].shape[1]
    total = share * boxed.total + (1 - share) * clicked.total
    run.sam.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(run.sam.parameters(), 1.0)
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient at step {run.step} is {float(norm)}")
    for optimizer in run.optimizers:
        optimizer.step()
    keep = min(AVERAGING, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.parameters()), list(run.sam.parameters()), 1 - keep)
    return {
        "loss": float(total.detach()),
        "box_iou": float(boxed.overlap.detach()),
        "point_iou": float(clicked.overlap.detach()),
        "iou_error": float(boxed.iou.detach()) ** 0.5,
        "norm": float(norm),
    }


def losses(sam: Any, batch: dict[str, Tensor], clicks: int, bfloat16: bool) -> tuple[Losses, Losses]:
    """Of the prompts by box and of those by points.

    A box, or several points, are answered by the first mask. One point may mean several things: the other
    three answer it, and the closest is taught.
    """
    images = torch.stack([sam.preprocess(image.float()) for image in batch["image"]])
    boxes = batch["boxes"].flatten(0, 1)  # [B P, 4]
    points = (
        batch["points"][:, :, :clicks].flatten(0, 1),
        batch["point_labels"][:, :, :clicks].flatten(0, 1),
    )
    split = batch["boxes"].shape[1]
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        features = sam.image_encoder(images)
    box_logits, box_iou = decode(sam, features, bfloat16, boxes=boxes)
    point_logits, point_iou = decode(sam, features, bfloat16, points=points)
    answers = slice(1, None) if clicks == 1 else slice(0, 1)
    return (
        objective(box_logits[:, :1], box_iou[:, :1], batch["masks"][:, :split].flatten(0, 1)),
        objective(point_logits[:, answers], point_iou[:, answers], batch["masks"][:, split:].flatten(0, 1)),
    )


def decode(
    sam: Any,
    features: Tensor,
    bfloat16: bool,
    boxes: Tensor | None = None,
    points: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """All four masks of the same number of prompts for each image.

    Args:
        sam: Meta's Sam or one like it.
        features: [B, C, h, w].
        bfloat16: whether the decoder computes in it; positions of prompts need more digits.
        boxes: [B P, 4], those of an image together.
        points: [B P, n, 2] and [B P, n].

    Returns:
        logits [B P, 4, 4 h, 4 w] and predicted IoU [B P, 4].
    """
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    each = len(sparse) // len(features)
    # The decoder takes one image at a time, and adds the dense prompt to it; so images go in with that.
    dense = dense + features.float().repeat_interleave(each, dim=0)
    with torch.autocast(features.device.type, torch.bfloat16, enabled=bfloat16):
        logits, iou = sam.mask_decoder.predict_masks(
            image_embeddings=torch.zeros_like(dense[:1]),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    return logits, iou
