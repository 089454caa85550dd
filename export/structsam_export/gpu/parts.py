"""The parts of a run: what is checked and timed, the most informative first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from structsam_plugins import Kernels
from structsam_plugins.build import build
from structsam_runtime.errors import UserError

from ..choices import Attention, Engine, Precision
from ..config import ExportConfig
from ..merging.kernels import TensorKernels
from ..recipe import Uniform
from . import encoders, exports, layers, sanitizer
from .encoders import Contestant
from .original import Original
from .page import EAGER, FUSED
from .record import Record

FASTEST = Attention.OPERATOR
"""The form of attention of our encoder in PyTorch; the others are timed if there is time left."""
FORMS_AT = 0.55
"""The rate at which the other forms and fp32 are timed, or the one nearest to it."""
RESERVE = 15.0
"""Seconds that are kept for the baselines at the end."""


@dataclass(frozen=True)
class Part:
    """A piece of work.

    Attributes:
        what, kind, seconds, work: see `Record.attempt`.
        kernels: whether it needs the kernels.
        last: whether it may use the time that is kept for the end.
    """

    what: str
    kind: str
    seconds: float
    work: Callable[[], object]
    kernels: bool = False
    last: bool = False


@dataclass
class Bench:
    """All parts for one GPU.

    Attributes:
        record: takes the rows.
        original: makes the encoders and checks them.
        configs: one for every rate, in fp16.
        sizes: batch sizes.
        repeat: timed runs.
        engine: also build and time engines; None for none.
        work: an empty folder.
        library, kernels: built and checked; None before that, and where they cannot be had.
    """

    record: Record
    original: Original
    configs: Sequence[ExportConfig]
    sizes: Sequence[int]
    repeat: int
    engine: Engine | None
    work: Path
    library: Path | None = None
    kernels: TensorKernels | None = None

    def run(self, only: Sequence[str] = ()) -> None:
        """Do the parts for which there is time.

        Args:
            only: texts; only parts with one of them in their names are done, in the order of the texts. By
                default all are.

        Raises:
            UserError: a text is in no name.
        """
        for part in self.chosen(only):
            if part.kernels and self.kernels is None:
                continue  # said by the part that builds them
            self.record.reserve = 0.0 if only or part.last else RESERVE
            self.record.attempt(part.what, part.kind, part.seconds, part.work)

    def chosen(self, only: Sequence[str]) -> list[Part]:
        """The parts that `run` does. The build of the kernels comes first where others need it."""
        first, *rest = parts = self.parts()
        if not only:
            return parts
        for text in only:
            if not any(text in part.what for part in parts):
                names = f"'{first.what}' and '{rest[-1].what}'"
                raise UserError(f"--only {text} is in no name of a part; expected a piece of one, as {names}")
        some = {part.what: part for text in only for part in parts if text in part.what}
        if any(part.kernels for part in some.values()):
            some = {first.what: first} | some
        return list(some.values())

    def parts(self) -> list[Part]:
        """All parts, the build of the kernels first."""
        meta = [self._meta(fused) for fused in (False, True)]
        ours = [self._ours(config) for config in self.configs]
        kernelled = [self._kernelled(config) for config in self.configs if config.rate]
        near = min(self.configs, key=lambda config: abs(config.rate - FORMS_AT))
        single = [self._meta(False, Precision.FP32), self._ours(replace(near, precision=Precision.FP32))]
        forms = [self._ours(near, form) for form in Attention if form is not FASTEST]
        return [
            Part("kernels: build, and check of small layers", "small", 40, self._build),
            *self._layers(),
            *(self._race(one) for one in [*meta, *ours]),
            *(replace(self._race(one), kernels=True) for one in kernelled),
            *self._steps(),
            *(self._race(one, self.sizes[:1]) for one in single),
            *self._compiled([meta[1], *ours]),
            *(self._race(one) for one in forms),
            Part("kernels: racecheck of small layers", "racecheck", 25, self._racecheck, kernels=True),
            *self._exports(),
            *(self._again(one) for one in meta),
        ]

    def _build(self) -> None:
        """Compile the kernels, and let them check small layers in a process that they may crash."""
        device = self.original.device
        compiler = {"cuda": "nvcc", "cpu": "g++"}[device]
        if shutil.which(compiler) is None:
            self.record.add("notes", f"no kernels: {compiler} is not installed")
            return
        library = build(device, self.work)
        self._small(library, "memcheck" if device == "cuda" and sanitizer.available() else None)
        self.library, self.kernels = library, TensorKernels(Kernels(library))

    def _racecheck(self) -> None:
        if self.library is not None and self.original.device == "cuda" and sanitizer.available():
            self._small(self.library, "racecheck")

    def _small(self, library: Path, tool: str | None) -> None:
        """Check small layers under a tool, and note how it went."""
        name = f"kernels on small layers, {f'compute-sanitizer {tool}' if tool else 'no compute-sanitizer'}"
        seconds = min(60, max(20, self.record.left / 4))
        try:
            sanitizer.small_check(library, self.original.device, tool, seconds)
        except TimeoutError as error:
            if tool is None:
                raise
            self.record.add("notes", f"{name}: {error}")  # the tools are slow
        else:
            self.record.add("notes", f"{name}: no errors")

    def _merging(self) -> list[tuple[str, Callable[[], layers.Merged]]]:
        """Names and makers of the layers that are looked at by themselves."""
        return [
            (f"{kind} layer at rate {config.rate:g}", partial(self.original.layer, config, kind))
            for config in self.configs
            if config.rate
            for kind in ("window", "global")
        ]

    def _layers(self) -> list[Part]:
        """The kernels against PyTorch on single layers."""
        return [
            Part(f"kernels, {name}", "layer", 5, partial(self._check_layer, make), kernels=True)
            for name, make in self._merging()
        ]

    def _check_layer(self, make: Callable[[], layers.Merged]) -> None:
        if self.kernels is not None:
            for dtype in (torch.float32, torch.float16):
                self.record.add("checks", layers.checked(self.kernels, make(), dtype, self.original.device))

    def _steps(self) -> list[Part]:
        """Planning, merging and unmerging of single layers, with PyTorch and with the kernels."""
        return [
            Part(f"steps, {name}, batch {batch}", f"steps {batch}", 5, partial(self._time_layer, make, batch))
            for name, make in self._merging()
            for batch in self.sizes
        ]

    def _time_layer(self, make: Callable[[], layers.Merged], batch: int) -> None:
        for row in layers.steps(self.kernels, make(), batch, self.original.device, self.repeat):
            self.record.add("kernels", row)

    def _meta(self, fused: bool, precision: Precision = Precision.FP16) -> Contestant:
        unmerged = Uniform(rate_window=0, rate_global=0)
        config = replace(self.configs[0], merging=unmerged, precision=precision)
        name = FUSED if fused else EAGER
        return Contestant(name, config, partial(self.original.meta, fused, precision), judged=False)

    def _ours(self, config: ExportConfig, form: Attention = FASTEST) -> Contestant:
        name = f"ours at rate {config.rate:g}" + ("" if form is FASTEST else f", {form}")
        return Contestant(name, config, partial(self.original.ours, config, form))

    def _kernelled(self, config: ExportConfig) -> Contestant:
        def make() -> nn.Module:  # called when the kernels are there
            return self.original.ours(config, FASTEST, self.kernels)

        return Contestant(f"ours at rate {config.rate:g}, with the kernels", config, make)

    def _race(self, one: Contestant, sizes: Sequence[int] | None = None, check: bool = True) -> Part:
        sizes = sizes or self.sizes
        kind, seconds = ("compiled", 30.0) if one.compiled else ("eager", 8.0)
        work = partial(encoders.raced, self.record, self.original, one, sizes, self.repeat, check)
        return Part(f"{one.full_name}, batch {', '.join(map(str, sizes))}", kind, seconds, work)

    def _again(self, one: Contestant) -> Part:
        part = self._race(one, check=False)
        return replace(part, what=f"{part.what}, again", kind="again", seconds=5, last=True)

    def _compiled(self, contestants: Sequence[Contestant]) -> list[Part]:
        """Compiled encoders: all at the first batch size, then at the others, since each is compiled anew."""
        if not any(map(shutil.which, ("cc", "gcc", "g++"))):
            return [self._without("compiled encoders", "torch.compile needs a C compiler")]
        order = sorted(contestants, key=_informative)
        return [self._race(replace(one, compiled=True), [size]) for size in self.sizes for one in order]

    def _exports(self) -> list[Part]:
        """Exports in ONNX Runtime, and as engines if asked for."""
        device, found = self.original.device, []
        if why := exports.missing(device):
            found.append(self._without("exports in ONNX Runtime", why))
        runners = [] if why else [(None, device)]
        for engine, runner in [*runners, *([(self.engine, str(self.engine))] if self.engine else [])]:
            for config in self.configs:
                chosen = replace(config, engine=engine)
                work = partial(exports.raced, self.record, chosen, runner, self.work, self.sizes, self.repeat)
                found.append(Part(f"export at rate {config.rate:g}, {runner}", "export", 90, work))
        return found

    def _without(self, what: str, why: str) -> Part:
        """A part that notes why it is left out."""
        return Part(what, "note", 0, partial(self.record.add, "notes", f"no {what}: {why}"))


def _informative(one: Contestant) -> tuple[bool, int]:
    """Order in which encoders are compiled: Meta's, ours at 0.55, at 0, then the others."""
    return one.judged, {FORMS_AT: 0, 0.0: 1}.get(one.config.rate, 2)
