"""Exports in ONNX Runtime or as engines, where their libraries are installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from structsam_runtime.benchmarking.timing import interleaved, spread
from structsam_runtime.contract import IMAGE
from structsam_runtime.errors import UserError
from structsam_runtime.progress import Progress
from structsam_runtime.runners import create
from structsam_runtime.runners.onnxruntime import library

from ..config import ExportConfig
from .record import Record

NEEDED = ("onnx_graphsurgeon", "polygraphy")


def missing(device: str) -> str:
    """Why ONNX Runtime cannot run exports on a device; empty if it can."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            return f"{name} is not installed"
    try:
        providers: list[str] = library().get_available_providers()
    except UserError as error:
        return str(error)
    provider = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device]
    return "" if provider in providers else f"ONNX Runtime here has no {provider}"


def raced(
    record: Record, config: ExportConfig, runner: str, work: Path, batches: Sequence[int], repeat: int
) -> None:
    """Make an export, compare it with PyTorch, time it, and add the rows; pictures come from the host."""
    from ..check import compare  # here, because the rest runs without the exporter's dependencies
    from ..pipeline import export

    out = work / f"{config.name}-{runner}"
    export(config, out, None, False, Progress())
    report, misses = compare(out, None, runner, None, Progress())
    name = f"ours at rate {config.rate:g}, {runner}, from the host"
    record.add(
        "checks",
        {
            "what": f"{name}, {config.precision}",
            "plans": report.plans,
            "error": report.error,
            "cosine": report.cosine,
            "mask_iou": report.mask_iou,
            "misses": misses,
        },
    )
    size = config.image_size
    with create(out, "encoder", runner) as opened:
        for batch in batches:
            pixels = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
            call = partial(opened.infer_on_device, {IMAGE: pixels})
            seconds = interleaved({name: call}, repeat)[name]
            times = spread(seconds, seconds)
            row = {"name": name, "compiled": False, "precision": str(config.precision), "batch": batch}
            record.add("encoders", row | times | {"first_s": seconds[0], "peak_device": None})
