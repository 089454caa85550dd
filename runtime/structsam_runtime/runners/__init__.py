"""Engines behind one lifecycle: ``with create(folder, "encoder", "cpu") as runner: runner.infer({...})``.

A new runner is a file in this folder and a row of TABLE. Files of runners are imported when one is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..manifest import Manifest
from .base import Runner


@dataclass(frozen=True)
class RunnerKind:
    """A row of the table.

    Attributes:
        file: the suffix of the files that it runs: ``encoder.onnx`` or ``encoder.engine``.
        install: what pip installs for it: an extra of this project, or a package.
        device: where it runs.
        open: makes a runner, to be opened, from a file and the runner's name; one of .onnx files takes
            ``threads`` by name, and ``export`` if the file is not verified; one of engines ``plugins``.
        library: what runs the files, and its version, by the runner's name. Raises UserError where that is
            not installed or lacks what the runner needs.
    """

    file: Literal["onnx", "engine"]
    install: str
    device: Literal["cpu", "cuda"]
    open: Callable[..., Runner]
    library: Callable[[str], str]


def _onnxruntime(path: Path, name: str, **options: Any) -> Runner:
    from .onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, name, **options)


def _onnxruntime_version(name: str) -> str:
    from .onnxruntime import require

    return f"ONNX Runtime {require(name).__version__}"


def _tensorrt(path: Path, name: str, **options: Any) -> Runner:
    from .tensorrt import TensorRtRunner

    return TensorRtRunner(path, name, **options)


def _tensorrt_version(name: str) -> str:
    from .tensorrt import bindings

    return f"{name} {bindings(name).__version__}"


TABLE = {
    "cpu": RunnerKind("onnx", '"structsam[cpu]"', "cpu", _onnxruntime, _onnxruntime_version),
    "cuda": RunnerKind("onnx", '"structsam[gpu]"', "cuda", _onnxruntime, _onnxruntime_version),
    "trt-ep": RunnerKind("onnx", '"structsam[gpu]"', "cuda", _onnxruntime, _onnxruntime_version),
    "rtx-ep": RunnerKind("onnx", "onnxruntime-trt-rtx", "cuda", _onnxruntime, _onnxruntime_version),
    "tensorrt": RunnerKind("engine", '"structsam[gpu]"', "cuda", _tensorrt, _tensorrt_version),
    "tensorrt-rtx": RunnerKind("engine", '"structsam[rtx]"', "cuda", _tensorrt, _tensorrt_version),
}
"""Every runner by its name. The packages of ONNX Runtime replace one another."""
RUNNERS = tuple(TABLE)
"""What `--runner` takes."""


def kind_of(runner: str) -> RunnerKind:
    """A runner's row of the table.

    Raises:
        UserError: no such runner.
    """
    if runner not in TABLE:
        raise UserError(f"runner '{runner}' is unknown, expected one of {', '.join(RUNNERS)}")
    return TABLE[runner]


def file_of(part: str, runner: str) -> str:
    """The file of an export that a runner runs.

    Raises:
        UserError: no such runner.
    """
    return f"{part}.{kind_of(runner).file}"


def create(
    folder: Path, part: str, runner: str = "cpu", threads: int | None = None, verified: bool = True
) -> Runner:
    """A runner, to be opened, of one part of an export, whose files are checked against its manifest.

    Args:
        folder: the export.
        part: ``encoder`` or ``decoder``.
        runner: one of RUNNERS.
        threads: of the CPU, for runners of .onnx files; default as many as there are cores.
        verified: False takes an .onnx file that its owner changed, as by quantisation, if it does not say
            that it is of another export. Engines, which are code as well as weights, are always checked.

    Raises:
        UserError: no such runner, or its library is not installed; no export, or its files are not those that
            were written; for an engine also what :func:`.tensorrt.check_engine` raises, and threads.
    """
    kind, file, manifest = kind_of(runner), file_of(part, runner), Manifest.read(folder)
    if kind.file == "engine":
        return _create_engine(folder, file, manifest, runner, threads)
    kind.library(runner)
    manifest.check_files(folder, [file], verified)
    # The hash of a checked file says more than its id.
    options = {} if verified else {"export": manifest.id}
    return kind.open(folder / file, runner, threads=threads, **options)


def _create_engine(folder: Path, file: str, manifest: Manifest, runner: str, threads: int | None) -> Runner:
    from .tensorrt import PLUGINS, check_engine

    if threads is not None:
        raise UserError(f"threads is {threads}, but {runner} runs on the GPU; leave it out")
    check_engine(folder, manifest, runner)
    plugins = [PLUGINS] if PLUGINS in manifest.files else []
    manifest.check_files(folder, [file, *plugins])
    return kind_of(runner).open(folder / file, runner, plugins=folder / PLUGINS if plugins else None)
