"""Times parts of an encoder on a runner, each as a graph of its own, as `structsam export` makes it."""

from __future__ import annotations

import copy
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from structsam_runtime.benchmarking.machine import machine
from structsam_runtime.build import EngineBuilder
from structsam_runtime.runners import kind_of

from ..choices import Engine, Target
from ..config import ExportConfig
from ..graph.passes import run_passes
from ..graph.save import save
from ..pipeline import traced
from ..staging import disk
from .latency import Latency, Part
from .notebook import Notebook

LONG = 0.125
"""Seconds of timed runs in one measurement; a part that takes longer runs once."""
CACHE = 2**28
"""Bytes that are written before each run on a CPU, more than caches hold. Inside of an encoder a block finds
its weights and buffers in memory, not in the cache where a run of that block alone left them."""
IN, OUT = "x", "y"
GRAPHS = ".graphs-"


def written_for(config: ExportConfig, runner: str) -> ExportConfig:
    """A config whose graphs are those that a runner takes.

    Raises:
        UserError: there is no such runner, its library is not installed, or it runs engines and there is no
            GPU.
    """
    kind = kind_of(runner)
    kind.library(runner)
    if kind.file == "engine":
        EngineBuilder(runner).require_gpu()
        return replace(config, engine=Engine(runner))
    return replace(config, target=Target.CUDA if kind.device == "cuda" else None)


@dataclass
class Stopwatch:
    """Gives the seconds that one run of a part takes: `stopwatch(part)`.

    Of one part there is memory at a time: a runner is opened for every measurement. Graphs and engines are
    made once, at the first.

    Attributes:
        config: model, precision and target of the graphs, see `written_for`.
        runner: one of RUNNERS.
        folder: where graphs and engines go.
        clock: seconds from any moment on.

    Raises:
        UserError: from a call: the runner does not start here.
        BuildError: from a call: its library cannot build an engine.
    """

    config: ExportConfig
    runner: str
    folder: Path
    clock: Callable[[], float] = time.perf_counter
    _files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kind = kind_of(self.runner)
        self._other = np.zeros(CACHE if self._kind.device == "cpu" else 0, np.uint8)

    def __call__(self, part: Part) -> float:
        """The median over runs on noise, after one that is not timed.

        What a block returns has the shape of what it takes, and is what the timed runs take: on a GPU, as in
        a whole encoder, nothing is copied to a block from the host.
        """
        if part.name not in self._files:
            self._files[part.name] = self._made(part, self.folder / f"{len(self._files)}.onnx")
        noise, seconds = np.random.default_rng(0).standard_normal(part.shape, np.float32), list[float]()
        with self._kind.open(self._files[part.name], self.runner) as runner:
            made = runner.infer_on_device({IN: noise})[OUT]
            feed = made if made.shape == noise.shape else noise
            while sum(seconds) < LONG:
                self._other += 1
                start = self.clock()
                runner.infer_on_device({IN: feed})
                seconds.append(self.clock() - start)
        return statistics.median(seconds)

    def _made(self, part: Part, path: Path) -> Path:
        """The file of a part that the runner takes."""
        module = part.make()
        if next(module.parameters()).is_cuda:
            module = copy.deepcopy(module).cpu()
        model = traced(self.config, module, {IN: torch.zeros(part.shape)}, None, [OUT])
        save(run_passes(model)[0], path)
        if self.config.engine is None:
            return path
        engine = path.with_suffix(".engine")
        EngineBuilder(self.config.engine).build(path, engine, {})
        path.unlink()
        return engine


@contextmanager
def timing(
    config: ExportConfig, runner: str, folder: Path, notebook: Notebook, model: str
) -> Iterator[Latency]:
    """Prices by time on a runner.

    Args:
        config: see `written_for`.
        runner: one of RUNNERS.
        folder: has room for the graphs of all settings while they are timed.
        notebook: measurements of earlier runs, and where new ones go.
        model: tells the model, its weights and its size from others.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    where = f"{machine()}, {kind_of(runner).library(runner)} ({runner})"
    for stale in folder.glob(f"{GRAPHS}*"):  # of a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with (
        disk(folder, "a rerun goes on where it was"),
        tempfile.TemporaryDirectory(prefix=GRAPHS, dir=folder) as graphs,
    ):
        yield Latency(Stopwatch(config, runner, Path(graphs)), config.form, notebook, where, model)
