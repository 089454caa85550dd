"""The training run, resumable at any step."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from structsam_runtime.errors import UserError
from structsam_runtime.files import whole_file

from ..models.architectures import Architecture
from .capture import Captured
from .data import Samples
from .muon import Muon
from .nano import build
from .photos import Photos
from .rounds import Asked, Asking, losses
from .schedule import Settings, Stage
from .validate import Score, validate

MATRIX_RATE, RATE = 1e-3, 5e-4
"""Learning rates of the transformers' matrices and of all else, between warm-up and decay, at 8 images a
step; they grow with the root of that number."""
AVERAGING = 0.999
"""Of the weights, from step to step; the average is what is validated and exported."""
LOG_EVERY = 20
VALIDATIONS, PICTURES, SCENES = 2, 8, 12
"""How many times a run is validated, on how many held-out pictures of each source and drawn scenes."""
SAVE_SECONDS = 180.0

Told = Callable[[dict[str, Any]], None]
Clock = Callable[[], float]


@dataclass
class Run:
    """All that training changes; what a checkpoint holds.

    Attributes:
        sam: in training.
        average: the same with averaged weights.
        optimizers: of sam's parameters.
        step: steps done.
        seen: samples trained on.
        elapsed: seconds of training, over all sessions.
    """

    sam: Any
    average: Any
    optimizers: tuple[torch.optim.Optimizer, ...]
    step: int = 0
    seen: int = 0
    elapsed: float = 0.0


def _optimizers(sam: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the transformers, AdamW for everything else.

    From scratch at 224 px Muon's loss was 1.67 after 200 steps where AdamW's was 2.02.
    """
    linear = {id(layer.weight) for layer in sam.modules() if isinstance(layer, nn.Linear)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in sam.named_parameters():
        inner = id(value) in linear and ("blocks." in name or "transformer." in name)
        (matrices if inner else others).append(value)
    on_gpu = sam.device.type == "cuda"
    return (
        Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05),
        torch.optim.AdamW(
            others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True, capturable=on_gpu
        ),
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, device: torch.device) -> None:
    """Set a learning rate; on a GPU it is a tensor that stays where it is, because CUDA graphs read it."""
    for group in optimizer.param_groups:
        group["capturable"] = device.type == "cuda"
        if device.type == "cpu":
            group["lr"] = rate
        elif isinstance(group["lr"], Tensor) and group["lr"].device.type == device.type:
            group["lr"].fill_(rate)
        else:
            group["lr"] = torch.tensor(rate, device=device)


def begin(settings: Settings, weights: dict[str, Tensor] | None = None) -> Run:
    """A run from fresh weights, or from others of the same sizes."""
    torch.manual_seed(settings.seed)
    sam = build(settings.arch, settings.stages[0].size, settings.device, weights)
    average = copy.deepcopy(sam)
    return Run(sam.train().requires_grad_(True), average, _optimizers(sam))


def restore(saved: dict[str, Any], arch: Architecture, size: int, device: str) -> Run:
    """A run from a checkpoint's content, at any image size.

    Positions are interpolated to the size; what the optimizer knew of those whose shape changed is dropped.
    """
    sam = build(arch, size, device, saved["sam"]).train().requires_grad_(True)
    average = build(arch, size, device, saved["average"])
    optimizers = _optimizers(sam)
    for optimizer, known in zip(optimizers, saved["optimizers"], strict=True):
        parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        fitting = {
            index: known["state"][index]
            for index, value in enumerate(parameters)
            if index in known["state"] and _fits(known["state"][index], value)
        }
        optimizer.load_state_dict({**known, "state": fitting})
    return Run(sam, average, optimizers, saved["step"], saved["seen"], saved["elapsed"])


def _fits(known: dict[str, Tensor], value: Tensor) -> bool:
    """Whether what an optimizer knows of a parameter has its shape; counters have none."""
    return all(one.shape == value.shape for one in known.values() if one.dim())


def content(run: Run) -> dict[str, Any]:
    """What a checkpoint holds. Samples and rates follow from its counts: no generator's state is needed."""
    return {
        "sam": run.sam.state_dict(),
        "average": run.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "size": run.sam.image_encoder.img_size,
        "step": run.step,
        "seen": run.seen,
        "elapsed": run.elapsed,
    }


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train first, or give -o the folder of a run")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged ({reason}); remove it to train from the start") from error
    return saved


def resume(settings: Settings) -> Run:
    """Go on where the folder's run stopped. Its end may be another now; rate and size follow from that."""
    saved = read(settings.last)
    if settings.curves.is_file():
        lines = settings.curves.read_text().splitlines(keepends=True)
        with whole_file(settings.curves) as part:
            part.write_text("".join(line for line in lines if _step_of(line) <= saved["step"]))
    return restore(saved, settings.arch, saved["size"], settings.device)


def _step_of(line: str) -> float:
    """The step of a line of the curves; infinity for one that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


def save(path: Path, run: Run) -> None:
    """Write a checkpoint, whole or not at all."""
    with whole_file(path) as part:
        torch.save(content(run), part)


class _Journal:
    """Adds records to the curves, and validates and saves when it is time.

    Args:
        run: what is trained.
        settings: of the run.
        photos: to validate on.
        told: called with every record.
        clock: seconds.
    """

    def __init__(self, run: Run, settings: Settings, photos: Photos, told: Told, clock: Clock) -> None:
        self.run, self.settings, self.photos, self.told, self.clock = run, settings, photos, told, clock
        self.window: list[dict[str, Tensor]] = []
        self.images, self.window_began = 0, clock()
        self.saved_at = clock()
        self.validated = int(VALIDATIONS * settings.progress(run.step, run.elapsed))
        self.validating = 0.0  # seconds

    def stepped(self, values: dict[str, Tensor], images: int) -> None:
        """After a step, with what is known of it: scalars, read when they are logged."""
        self.window.append(values)
        self.images += images
        if self.run.step % LOG_EVERY == 0:
            self._log()
        due = int(VALIDATIONS * self.settings.progress(self.run.step, self.run.elapsed))
        if VALIDATIONS > due > self.validated and self.validating <= 0.1 * self.run.elapsed:
            self._validate()
            self.validated = due
        if self.clock() - self.saved_at > SAVE_SECONDS:
            self._log()  # which raises rather than that what is broken is saved
            save(self.settings.last, self.run)
            self.saved_at = self.clock()

    def ended(self) -> None:
        """After the last step."""
        self._log()
        save(self.settings.last, self.run)
        self._validate()

    def _log(self) -> None:
        if not self.window:
            return
        columns = {key: torch.stack([x[key] for x in self.window]) for key in self.window[0]}
        means = {key: round(float(column.mean()), 5) for key, column in columns.items()}
        if not math.isfinite(means["norm"]):
            raise FloatingPointError(f"a gradient before step {self.run.step} is {means['norm']}")
        seconds = max(self.clock() - self.window_began, 1e-9)
        rates = {"steps_s": len(self.window) / seconds, "images_s": self.images / seconds}
        self._record(**means, **{key: round(value, 3) for key, value in rates.items()})
        self._restart()

    def _restart(self) -> None:
        self.window, self.images, self.window_began = [], 0, self.clock()

    def _validate(self) -> None:
        began = self.clock()
        with torch.autocast(
            self.run.average.pixel_mean.device.type, torch.bfloat16, enabled=self.settings.bfloat16
        ):
            scores: dict[str, Score] = validate(self.run.average, self.photos, PICTURES, SCENES)
        self.validating += self.clock() - began
        self._record(validation={source: dataclasses.asdict(score) for source, score in scores.items()})
        self.window_began += self.clock() - began

    def _record(self, **values: Any) -> None:
        run = self.run
        common = {"step": run.step, "seconds": round(run.elapsed, 1), "size": run.sam.image_encoder.img_size}
        with self.settings.curves.open("a") as curves:
            curves.write(json.dumps({**common, **values}) + "\n")
        self.told({**common, **values})


def train(run: Run, settings: Settings, photos: Photos, told: Told, clock: Clock = time.monotonic) -> None:
    """Train to the end.

    Args:
        run: changed in place.
        settings: what to do.
        photos: to draw samples from.
        told: called with every record that is added to the curves.
        clock: seconds; what `minutes` are measured with.
    """
    progress = settings.progress(run.step, run.elapsed)
    if progress >= 1:
        return
    began = clock() - run.elapsed
    journal = _Journal(run, settings, photos, told, clock)
    while progress < 1:
        stage = settings.stage(progress)
        _resize(run, settings, stage)
        update = _updating(run, settings)
        for batch in _batches(photos, settings, stage, run.seen):
            values = _step(run, settings, update, batch, progress)
            run.step += 1
            run.seen += len(batch["image"])
            run.elapsed = clock() - began
            journal.stepped(values, len(batch["image"]))
            run.elapsed = clock() - began
            progress = settings.progress(run.step, run.elapsed)
            if progress >= 1 or settings.stage(progress) != stage:
                break
    journal.ended()


def _resize(run: Run, settings: Settings, stage: Stage) -> None:
    """Bring a run to the image size of a stage, compiled where that is asked for."""
    if run.sam.image_encoder.img_size != stage.size:
        resized = restore(content(run), settings.arch, stage.size, settings.device)
        run.sam, run.average, run.optimizers = resized.sam, resized.average, resized.optimizers
    if settings.compiled:
        for block in run.sam.image_encoder.blocks:
            block.compile()  # one graph for all windowed blocks and one for all global ones


def _batches(photos: Photos, settings: Settings, stage: Stage, seen: int) -> Iterator[dict[str, Tensor]]:
    """Batches without end from a sample on."""
    samples = Samples(photos, stage.size, seen, seen + 10**9, settings.seed)
    workers = settings.workers
    return iter(
        DataLoader(
            samples,
            settings.images(stage),
            num_workers=workers,
            pin_memory=settings.device != "cpu",
            multiprocessing_context="fork" if workers else None,  # shares the pictures in memory
            prefetch_factor=4 if workers else None,
        )
    )


Update = Callable[[Asking, dict[str, Tensor]], dict[str, Tensor]]


def _updating(run: Run, settings: Settings) -> Update:
    """What updates the weights of a run by a batch: see `_updated`."""
    update = partial(_updated, run, settings)
    return Captured(update) if run.sam.device.type == "cuda" else update


def _updated(run: Run, settings: Settings, asking: Asking, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Forward, backward, and a step of the optimizers; nothing here waits for the device."""
    asked = losses(run.sam, batch, asking, settings.bfloat16)
    total = asked.total(batch["boxes"].shape[1] / batch["masks"].shape[1])
    run.sam.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(run.sam.parameters(), 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
    return {"loss": total.detach(), **_seen(asked), "norm": norm}


def _step(
    run: Run, settings: Settings, update: Update, batch: dict[str, Tensor], progress: float
) -> dict[str, Tensor]:
    """One update of the weights and their average."""
    pace = settings.pace(run.step, progress)
    for optimizer, rate in zip(run.optimizers, (MATRIX_RATE, RATE), strict=True):
        _set_rate(optimizer, rate * pace * (settings.batch / 8) ** 0.5, run.sam.device)
    values = update(Asking.at(run.step), batch)
    keep = min(AVERAGING, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.parameters()), list(run.sam.parameters()), 1 - keep)
    return {"pace": torch.tensor(pace), **values}


def _seen(asked: Asked) -> dict[str, Tensor]:
    """What a batch's answers were like; on a GPU nothing waits for it."""
    return {
        "box": asked.boxed.overlap.detach(),
        "click": asked.clicked.overlap.detach(),
        "iou_error": asked.boxed.iou.detach() ** 0.5,
    }
