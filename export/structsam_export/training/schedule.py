"""What a training run is: how long, in which stages, at which rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..models.architectures import Architecture
from .nano import NANO

WARMUP = 60
"""Steps in which the rate rises."""
DECAY = 0.75
"""Last share of a run, in which the rate falls to zero."""
BATCH_SIZE = 224
"""The image size that a batch is given for."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one image size.

    Attributes:
        until: the share of the run at which it ends, 0..1.
        size: pixels along the side of the input.
    """

    until: float
    size: int


STAGES = (Stage(0.45, 224), Stage(1.0, 512))
"""224 pixels are 2 x 2 whole windows of tokens: at other small sizes windows hold padding, up to three times
the work. Detail of the final scale is learnt from crops long before the final size."""


@dataclass(frozen=True)
class Settings:
    """What a run is.

    Attributes:
        folder: where checkpoints and curves go.
        steps: where it ends; None if it ends by the clock.
        minutes: how long it trains, over all sessions; None if it ends by its steps. Validation counts.
        device: PyTorch's name of it.
        workers: processes that draw samples; 0 is none beside this one.
        bfloat16: compute in it where that is safe; faster on processors and GPUs that have it.
        compiled: compile the blocks of the encoder.
        batch: images a step at 224 pixels; at other sizes so many that pixels are about the same.
        seed: of weights and samples.
        stages: see STAGES; the last ends at 1.
        arch: the sizes of the model.
    """

    folder: Path
    steps: int | None = None
    minutes: float | None = None
    device: str = "cpu"
    workers: int = 0
    bfloat16: bool = False
    compiled: bool = False
    batch: int = 8
    seed: int = 0
    stages: tuple[Stage, ...] = STAGES
    arch: Architecture = NANO

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.pt"

    @property
    def curves(self) -> Path:
        """One JSON object a line."""
        return self.folder / "curves.jsonl"

    def progress(self, step: int, elapsed: float) -> float:
        """The share of the run that is done, 0..1, after so many steps and seconds."""
        if self.minutes is not None:
            return min(1.0, elapsed / (60 * self.minutes))
        return min(1.0, step / self.steps) if self.steps else 1.0

    def stage(self, progress: float) -> Stage:
        """The stage at a progress, 0..1."""
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])

    def images(self, stage: Stage) -> int:
        """Images a step."""
        return max(1, round(self.batch * (BATCH_SIZE / stage.size) ** 2))

    def pace(self, step: int, progress: float) -> float:
        """What the learning rates are multiplied with at a step, from above 0 to 1."""
        return min(1.0, (step + 1) / WARMUP, (1 - progress) / DECAY)
