"""Check and time encoders and kernels on one GPU, with one command, in a bounded time.

python scripts/gpu.py -o benchmarks/gpu.json --minutes 4
"""

import shlex
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import UserError
from structsam_runtime.benchmarking.machine import cores, processor
from structsam_runtime.benchmarking.tables import check_result
from structsam_runtime.benchmarking.timing import clocks, versions
from structsam_runtime.cli.console import FAILED, missing, run
from structsam_runtime.predict.predictor import BATCH

try:
    import torch

    from structsam_export.choices import Attention, Engine, Precision
    from structsam_export.config import ExportConfig
    from structsam_export.gpu import encoders, exports, layers, sanitizer
    from structsam_export.gpu.encoders import Contestant
    from structsam_export.gpu.page import EAGER, FUSED
    from structsam_export.gpu.record import Record
    from structsam_export.gpu.subject import Subject
    from structsam_export.merging.kernels import TensorKernels
    from structsam_export.models.architectures import ARCHITECTURES
    from structsam_plugins import Kernels
    from structsam_plugins.build import build
except ModuleNotFoundError as error:
    missing(error)

FASTEST = Attention.OPERATOR
"""The form of attention of our encoder in PyTorch; the others are timed if there is time left."""
FORMS_AT = 0.55
"""The rate at which the other forms and fp32 are timed."""


def main(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the page is written beside it as .md.")
    ],
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = "vit_b",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights; without them they are random.")] = None,
    image_size: Annotated[
        int, typer.Option(help="Side of the input in pixels; 0: the size of the architecture.")
    ] = 0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights, also where others are at hand.")
    ] = False,
    rates: Annotated[str, typer.Option(metavar="LIST", help="Rates of merging.")] = "0,0.35,0.55,0.75",
    batches: Annotated[str, typer.Option(metavar="LIST", help="Images per call.")] = "1,8",
    minutes: Annotated[float, typer.Option(min=0, help="What no longer fits is left out.")] = 4,
    engine: Annotated[
        Engine | None, typer.Option(help="Also build and time engines; needs the library.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try this command without a GPU.")] = "cuda",
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Only encoders with this in their names; repeat it, in order."),
    ] = None,
) -> None:
    """Compare kernels and encoders with PyTorch on the CPU, and time them beside Meta's encoder."""
    check_result(output)
    sizes, shares = [int(size) for size in _numbers("--batches", batches)], _numbers("--rates", rates)
    if not all(1 <= size <= BATCH for size in sizes):
        raise UserError(f"--batches {batches} is out of range; expected numbers from 1 to {BATCH}")
    _require(device, engine)
    if arch in ARCHITECTURES and checkpoint is None and ARCHITECTURES[arch].sha256 is not None:
        random_weights = True
    configs = [
        ExportConfig.of(
            arch,
            rate=share,
            checkpoint=checkpoint,
            random_weights=random_weights,
            image_size=image_size,
            precision=Precision.FP16,
            dynamic_batch=True,
        )
        for share in shares
    ]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    chosen = "".join(f" --only {shlex.quote(text)}" for text in only or [])
    command = f"python scripts/gpu.py -o {output.name} --minutes {minutes:g}{chosen}"
    head = {
        "machine": _machine(device),
        "command": command,
        "arch": arch,
        "image_size": configs[0].image_size,
        "weights": "random weights" if random_weights else "trained weights",
        "repeat": repeat,
        "batches": sizes,
    }
    record = Record(output, head, minutes)
    with tempfile.TemporaryDirectory() as folder:
        parts = Run(record, configs, sizes, repeat, device, engine, Path(folder))
        parts.some(only) if only else parts.everything()
    record.content["machine"]["clocks_at_the_end"] = clocks()
    record.write()
    typer.echo(output.with_suffix(".md").read_text())
    wrong = record.content["misses"] or any(check["misses"] for check in record.content["checks"])
    raise typer.Exit(FAILED if wrong else 0)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text} is not a list of numbers; expected e.g. 1,8") from error


def _require(device: str, engine: Engine | None) -> None:
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device} is unknown; expected cuda or cpu")
    if device == "cpu" and engine:
        raise UserError(f"--engine {engine} runs on a GPU; leave it out with --device cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU; to try the command, give --device cpu --image-size 224")


def _machine(device: str) -> dict[str, Any]:
    """Date, machine and versions, as far as they can be found."""
    on_gpu = device == "cuda"
    gpus = [torch.cuda.get_device_name()] if on_gpu else []
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": cores(),
        "gpus": gpus,
        "capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "memory": list(torch.cuda.mem_get_info()) if on_gpu else None,  # free and total, bytes
        "clocks": clocks(),
        "versions": versions() | {"CUDA of torch": str(torch.version.cuda)},
    }


@dataclass
class Run:
    """All parts, the most informative first.

    Attributes:
        record: takes the rows.
        configs: one for every rate, in fp16.
        sizes: batch sizes.
        repeat: timed runs.
        device: cuda or cpu.
        engine: also build engines.
        work: an empty folder.
    """

    record: Record
    configs: list[ExportConfig]
    sizes: list[int]
    repeat: int
    device: str
    engine: Engine | None
    work: Path
    kernels: TensorKernels | None = None

    def everything(self) -> None:
        """Do all parts, as far as there is time and what they need is there."""
        attempt = self.record.attempt
        self.record.reserve = 15  # for the baselines at the end
        attempt("kernels: build, and check of small layers", "small", 40, self._build)
        subjects: list[Subject] = []
        reference = partial(Subject, self.configs[0], self.device)
        attempt("load the encoder", "load", 10, lambda: subjects.append(reference()))
        if not subjects:
            return
        subject = subjects[0]
        merging = [config for config in self.configs if config.rate]
        found = [layer for config in merging for layer in subject.layers(config)]
        if self.kernels is not None:
            for layer in found:
                attempt(f"kernels, {layer.what}", "layer", 5, partial(self._check_layer, self.kernels, layer))
        meta, ours = self._eager(subject)
        for one in [*meta, *ours]:
            self._race(subject, one, self.sizes)
        if (kernels := self.kernels) is not None:
            for one in self._kernelled(subject, lambda: kernels):
                self._race(subject, one, self.sizes)
        for layer in found:
            for batch in self.sizes:
                work = partial(self._time_layer, layer, batch)
                attempt(f"steps, {layer.what}, batch {batch}", f"steps {batch}", 5, work)
        self._single(subject, meta[0])
        self._compiled(subject, [meta[1], *ours])
        self._forms(subject)
        self._racecheck()
        self._exports()
        self.record.reserve = 0
        for one in meta:
            again = partial(encoders.raced, self.record, subject, one, self.sizes, self.repeat, check=False)
            attempt(f"{one.full_name}, again", "again", 5, again)

    def some(self, texts: list[str]) -> None:
        """Check and time the encoders whose names contain one of the texts, in the order of the texts."""
        attempt = self.record.attempt
        subjects: list[Subject] = []
        attempt(
            "load the encoder", "load", 10, lambda: subjects.append(Subject(self.configs[0], self.device))
        )
        if not subjects:
            return
        meta, ours = self._eager(subjects[0])
        compiled = [replace(one, compiled=True) for one in (meta[1], *ours)]
        with ThreadPoolExecutor(1) as pool:  # the compiler of the kernels runs beside the first encoders
            library = pool.submit(build, self.device, self.work)
            kernelled = self._kernelled(subjects[0], lambda: TensorKernels(Kernels(library.result())))
            races = [*meta, *ours, *kernelled, *compiled]
            chosen = {one.full_name: one for text in texts for one in races if text in one.full_name}
            for one in chosen.values():
                self._race(subjects[0], one, self.sizes)

    def _eager(self, subject: Subject) -> tuple[list[Contestant], list[Contestant]]:
        """Meta's, eager and fused, and ours at every rate."""
        meta = [self._meta(subject, fused) for fused in (False, True)]
        return meta, [self._ours(subject, config) for config in self.configs]

    def _kernelled(self, subject: Subject, kernels: Callable[[], TensorKernels]) -> list[Contestant]:
        """Ours at every rate that merges, with the kernels."""

        def make(config: ExportConfig) -> torch.nn.Module:
            return subject.ours(config, FASTEST, kernels())

        plain = [self._ours(subject, config) for config in self.configs if config.rate]
        return [
            replace(one, name=f"{one.name}, with the kernels", make=partial(make, one.config))
            for one in plain
        ]

    def _build(self) -> None:
        """Compile the kernels, and let them check small layers in a process that they may crash."""
        compiler = "nvcc" if self.device == "cuda" else "g++"
        if shutil.which(compiler) is None:
            self.record.add(
                "notes", f"the kernels need {compiler}, which is not installed; they are left out"
            )
            return
        library = build(self.device, self.work)
        tool = "memcheck" if self.device == "cuda" and sanitizer.available() else None
        if wrong := self._small(library, tool):
            raise RuntimeError(wrong)
        self.kernels = TensorKernels(Kernels(library))

    def _small(self, library: Path, tool: str | None) -> str:
        """Check small layers under a tool, and note how it went; returns what went wrong."""
        name = f"compute-sanitizer {tool}" if tool else "no compute-sanitizer"
        try:
            wrong = sanitizer.small_check(library, self.device, tool, min(60, max(20, self.record.left / 4)))
        except TimeoutError as error:
            self.record.add("notes", f"kernels on small layers, {name}: {error}")
            return "" if tool else str(error)
        if not wrong:
            self.record.add("notes", f"kernels on small layers, {name}: no errors")
        return wrong

    def _racecheck(self) -> None:
        if self.kernels is None or self.device != "cuda" or not sanitizer.available():
            self.record.add("notes", "racecheck of the kernels needs a GPU, nvcc and compute-sanitizer")
            return

        def work() -> None:
            if wrong := self._small(self.work / "libstructsam_cuda.so", "racecheck"):
                raise RuntimeError(wrong)

        self.record.attempt("kernels, racecheck", "racecheck", 25, work)

    def _check_layer(self, kernels: TensorKernels, layer: layers.Merged) -> None:
        for dtype in (torch.float32, torch.float16):
            self.record.add("checks", layers.checked(kernels, layer, dtype, self.device))

    def _time_layer(self, layer: layers.Merged, batch: int) -> None:
        rows = layers.steps(self.kernels, layer, batch, True, self.device, self.repeat)
        for row in rows:
            self.record.add("kernels", row)

    def _meta(self, subject: Subject, fused: bool) -> Contestant:
        unmerged = ExportConfig.of(
            self.configs[0].arch,
            rate=0,
            checkpoint=self.configs[0].checkpoint,
            random_weights=self.configs[0].random_weights,
            image_size=self.configs[0].image_size,
            precision=Precision.FP16,
        )
        make = partial(subject.meta, fused, Precision.FP16)
        return Contestant(FUSED if fused else EAGER, unmerged, make, judged=False)

    def _ours(self, subject: Subject, config: ExportConfig, form: Attention = FASTEST) -> Contestant:
        name = f"ours at rate {config.rate:g}" + ("" if form is FASTEST else f", {form}")
        return Contestant(name, config, partial(subject.ours, config, form), judged=True)

    def _race(self, subject: Subject, one: Contestant, sizes: list[int]) -> None:
        kind, seconds = ("compiled", 30.0) if one.compiled else ("eager", 8.0)
        work: Callable[[], None] = partial(encoders.raced, self.record, subject, one, sizes, self.repeat)
        self.record.attempt(f"{one.full_name}, batch {', '.join(map(str, sizes))}", kind, seconds, work)

    def _single(self, subject: Subject, meta: Contestant) -> None:
        """Meta's and ours in fp32, without TF32, at the first batch size."""
        make = partial(subject.meta, False, Precision.FP32)
        fp32 = replace(meta.config, precision=Precision.FP32)
        self._race(subject, replace(meta, config=fp32, make=make), self.sizes[:1])
        merged = replace(self._nearest(), precision=Precision.FP32)
        self._race(subject, self._ours(subject, merged), self.sizes[:1])

    def _compiled(self, subject: Subject, contestants: list[Contestant]) -> None:
        """Compiled encoders: all at the first batch size, then at the others, since each is compiled anew."""
        if shutil.which("gcc") is None and shutil.which("cc") is None and shutil.which("g++") is None:
            self.record.add(
                "notes", "torch.compile needs a C compiler, which is not installed; it is left out"
            )
            return
        for size in self.sizes:
            for one in sorted(contestants, key=_compiled_first):
                self._race(subject, replace(one, compiled=True), [size])

    def _forms(self, subject: Subject) -> None:
        for form in Attention:
            if form is not FASTEST:
                self._race(subject, self._ours(subject, self._nearest(), form), self.sizes)

    def _nearest(self) -> ExportConfig:
        """The config with the rate nearest to that of the forms."""
        return min(self.configs, key=lambda config: abs(config.rate - FORMS_AT))

    def _exports(self) -> None:
        """Exports in ONNX Runtime, and as engines if asked for."""
        why = exports.missing(self.device)
        if why:
            self.record.add("notes", f"no exports in ONNX Runtime: {why}")
        runners = [
            *([] if why else [(None, self.device)]),
            *([(self.engine, str(self.engine))] if self.engine else []),
        ]
        for engine, runner in runners:
            for config in self.configs:
                chosen = replace(config, engine=engine)
                work = partial(exports.raced, self.record, chosen, runner, self.work, self.sizes, self.repeat)
                self.record.attempt(f"export at rate {config.rate:g}, {runner}", "export", 90, work)


def _compiled_first(one: Contestant) -> int:
    """Order in which encoders are compiled: Meta's, ours at 0.55, at 0, then the others."""
    rate = one.config.rate
    return 1 + [0.55, 0.0, rate].index(rate) if one.judged else 0


if __name__ == "__main__":
    run(main)
