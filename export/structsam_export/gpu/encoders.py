"""Encoders in PyTorch: each is opened alone, checked against the original, timed and freed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import Precision
from ..config import ExportConfig
from .compiling import compiled
from .original import Original
from .record import Record

WARM_UP = 2
REPLAY = 0.999
"""Least cosine between embeddings of a run and of its replay, which launches the same kernels."""
Encode = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contestant:
    """An encoder in one form.

    Attributes:
        name: name in tables.
        config: its precision, and what the original merges to compare with it.
        make: makes it on the CPU, in its precision.
        judged: whether it must meet the thresholds; Meta's own is shown beside ours, but not judged.
        compiled: run it through `torch.compile`.
    """

    name: str
    config: ExportConfig
    make: Callable[[], nn.Module]
    judged: bool = True
    compiled: bool = False

    @property
    def full_name(self) -> str:
        """The name with its precision and form."""
        return f"{self.name}, {'compiled, ' if self.compiled else ''}{self.config.precision}"


def raced(
    record: Record, original: Original, one: Contestant, batches: Sequence[int], repeat: int, check: bool
) -> None:
    """Open a contestant, check it on a picture, time it, and add the rows.

    Pictures are on the device in the contestant's precision, and embeddings stay there.
    """
    device = original.device
    module = one.make().to(device).eval()
    dtype = torch.float16 if one.config.precision is Precision.FP16 else torch.float32
    with torch.no_grad(), compiled(module) if one.compiled else nullcontext(module) as module:
        for batch in batches:
            pictures = [index % len(original.images) for index in range(batch)]
            image = original.images[pictures].to(device, dtype)
            start = time.perf_counter()
            outputs = _run(module, image, device)
            first = time.perf_counter() - start
            if check:
                record.add("checks", _check(original, one, outputs, batch))
                check = False
            del outputs
            row = {"name": one.name, "compiled": one.compiled, "precision": str(one.config.precision)}
            row |= {"batch": batch}
            record.add("encoders", row | _timed(module, image, device, repeat, first))
            if device == "cuda":
                work = partial(_replayed, record, row, module, image, repeat)
                record.attempt(f"{one.full_name}, batch {batch}, CUDA graph", "graph", 2, work)


def _replayed(record: Record, row: dict[str, Any], module: Encode, image: Tensor, repeat: int) -> None:
    """Record the launches of a run that has warmed up once, replay them, and add the row.

    Raises:
        ArithmeticError: the replay computes another embedding.
    """
    start = time.perf_counter()
    expected = module(image)[0].float().flatten()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(image)

    def replay(image: Tensor) -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    embedding = _run(replay, image, "cuda")[0].float().flatten()
    first = time.perf_counter() - start
    if not (cosine := F.cosine_similarity(embedding, expected, 0).item()) > REPLAY:
        raise ArithmeticError(f"the replayed embedding has cosine {cosine:.4f} with that of the same encoder")
    name = f"{row['name']}, CUDA graph"
    record.add("encoders", row | {"name": name} | _timed(replay, image, "cuda", repeat, first))


def _check(original: Original, one: Contestant, outputs: Sequence[Tensor], batch: int) -> dict[str, Any]:
    """A row of the checks, from the outputs of a batch, whose first picture is compared."""
    alone = [output[: len(output) // batch].clone() for output in outputs]
    report = original.report(one.config, alone, one.full_name)
    misses = report.misses(one.config.precision) if one.judged else []
    return {
        "what": one.full_name,
        "plans": report.plans,
        "error": report.error,
        "cosine": report.cosine,
        "mask_iou": report.mask_iou,
        "misses": misses,
    }


def _run(module: Encode, image: Tensor, device: str) -> tuple[Tensor, ...]:
    outputs = module(image)
    if device == "cuda":
        torch.cuda.synchronize()
    return outputs


def _timed(module: Encode, image: Tensor, device: str, repeat: int, first: float) -> dict[str, Any]:
    """Seconds of `repeat` runs after two that warm up, and the peak of GPU memory in bytes."""
    for _ in range(WARM_UP):
        _run(module, image, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        _run(module, image, device)
        seconds.append(time.perf_counter() - start)
    return {
        "median_s": round(statistics.median(seconds), 7),
        "min_s": round(min(seconds), 7),
        "max_s": round(max(seconds), 7),
        "first_s": round(first, 3),
        "peak_device": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "seconds": [round(value, 7) for value in seconds],
    }
