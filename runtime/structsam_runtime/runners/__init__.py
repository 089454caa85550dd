"""Runners of exports: ``with create(folder, "encoder", "cpu") as runner: runner.infer({...})``.

A new runner is a file in this folder and a row of TABLE. The file is imported when a runner is created.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..manifest import Manifest
from .base import Runner


@dataclass(frozen=True)
class RunnerKind:
    """A row of the table.

    Attributes:
        file: suffix of the files that it runs: ``encoder.onnx`` or ``encoder.engine``.
        install: argument of ``pip install``: an extra of this project, or a package.
        device: the device it runs on.
        open: makes a runner from a file and the runner's name; for .onnx files it takes the keyword
            ``threads``, and ``export`` if the file is not verified; for engines ``plugins`` and ``contract``.
            The runner is opened by its ``with`` block.
        library: returns name and version of the library, from the runner's name. Raises UserError if the
            library is not installed or lacks a provider.
        lacks: the precisions of exports that it does not compute, and why.
    """

    file: Literal["onnx", "engine"]
    install: str
    device: Literal["cpu", "cuda"]
    open: Callable[..., Runner]
    library: Callable[[str], str]
    lacks: Mapping[str, str] = field(default_factory=dict)


def _onnxruntime(path: Path, name: str, **options: Any) -> Runner:
    from .onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, name, **options)


def _onnxruntime_version(name: str) -> str:
    from .onnxruntime import require

    return f"ONNX Runtime {require(name).__version__}"


def _openvino(path: Path, name: str, **options: Any) -> Runner:
    from .openvino import OpenVinoRunner

    return OpenVinoRunner(path, **options)


def _openvino_version(name: str) -> str:
    from .openvino import library

    return f"OpenVINO {library().__version__.partition('-')[0]}"


def _tensorrt(path: Path, name: str, **options: Any) -> Runner:
    from .tensorrt import TensorRtRunner

    return TensorRtRunner(path, name, **options)


def _tensorrt_version(name: str) -> str:
    from .tensorrt import bindings

    return f"{name} {bindings(name).__version__}"


TABLE = {
    "cpu": RunnerKind(
        "onnx",
        '"structsam[cpu]"',
        "cpu",
        _onnxruntime,
        _onnxruntime_version,
        {"bf16": "ONNX Runtime has no matrix multiplication in bf16 on a CPU"},
    ),
    "openvino": RunnerKind("onnx", '"structsam[openvino]"', "cpu", _openvino, _openvino_version),
    "cuda": RunnerKind("onnx", '"structsam[cuda]"', "cuda", _onnxruntime, _onnxruntime_version),
    "tensorrt": RunnerKind("engine", '"structsam[tensorrt]"', "cuda", _tensorrt, _tensorrt_version),
    "tensorrt-rtx": RunnerKind("engine", '"structsam[rtx]"', "cuda", _tensorrt, _tensorrt_version),
}
"""Every runner by its name. Only one of the packages of ONNX Runtime can be installed at a time."""
RUNNERS = tuple(TABLE)
"""The values of `--runner`."""
_REMOVED = {"trt-ep": "tensorrt", "rtx-ep": "tensorrt-rtx"}
"""Runners that there were, and what does their work."""


def kind_of(runner: str) -> RunnerKind:
    """The row of a runner in the table.

    Raises:
        UserError: there is no such runner.
    """
    refuse_removed(runner)
    if runner not in TABLE:
        raise UserError(f"runner '{runner}' is unknown, expected one of {', '.join(RUNNERS)}")
    return TABLE[runner]


def refuse_removed(runner: str) -> None:
    """Say what does the work of a runner that there was.

    Raises:
        UserError: it was one.
    """
    if runner in _REMOVED:
        heir = _REMOVED[runner]
        raise UserError(
            f"runner '{runner}' was removed: build engines with structsam build OUT --engine {heir} and use "
            f"--runner {heir}"
        )


def file_of(part: str, runner: str) -> str:
    """The file of an export that a runner runs, such as ``encoder.onnx``.

    Raises:
        UserError: there is no such runner.
    """
    return f"{part}.{kind_of(runner).file}"


def check_precision(precision: str, runner: str) -> None:
    """Check that a runner computes a precision.

    Raises:
        UserError: there is no such runner, or it lacks the precision.
    """
    own = kind_of(runner)
    if precision in own.lacks:
        others = [
            name for name, kind in TABLE.items() if kind.device == own.device and precision not in kind.lacks
        ]
        raise UserError(
            f"runner '{runner}' does not run exports in {precision}: {own.lacks[precision]}; use --runner "
            f"{' or '.join(others)}, or export in another precision"
        )


def create(
    folder: Path, part: str, runner: str = "cpu", threads: int | None = None, verified: bool = True
) -> Runner:
    """A runner of one part of an export, after checking the files against the manifest.

    The runner is opened by its ``with`` block.

    Args:
        folder: the export.
        part: ``encoder`` or ``decoder``.
        runner: one of RUNNERS.
        threads: CPU threads, for runners of .onnx files; by default one per core.
        verified: False also loads an .onnx file that was changed, as by quantisation, unless its metadata
            name another export. Engines, which contain code, are always checked.

    Raises:
        UserError: there is no such runner or its library is not installed; the folder is no export, its files
            were changed, or the runner lacks its precision; for an engine also as in
            :func:`.tensorrt.check_engine`, or if ``threads`` is given.
    """
    kind, file, manifest = kind_of(runner), file_of(part, runner), Manifest.read(folder)
    check_precision(manifest.model.precision, runner)
    if kind.file == "engine":
        if not verified:
            raise UserError(f"--unverified is for .onnx files, and {runner} runs engines; leave it out")
        return _create_engine(folder, part, manifest, runner, threads)
    kind.library(runner)
    manifest.check_files(folder, [file], verified)
    # The hash of a checked file says more than its id.
    options = {} if verified else {"export": manifest.id}
    return kind.open(folder / file, runner, threads=threads, **options)


def _create_engine(folder: Path, part: str, manifest: Manifest, runner: str, threads: int | None) -> Runner:
    from ..contract import decoder_specs, encoder_specs
    from .tensorrt import PLUGINS, check_engine

    if threads is not None:
        raise UserError(f"threads is {threads}, but {runner} runs on the GPU; leave it out")
    check_engine(folder, manifest, runner)
    file, plugins = file_of(part, runner), [PLUGINS] if PLUGINS in manifest.files else []
    manifest.check_files(folder, [file, *plugins])
    inputs, _ = (encoder_specs if part == "encoder" else decoder_specs)(manifest.model)
    library = folder / PLUGINS if plugins else None
    return kind_of(runner).open(folder / file, runner, plugins=library, contract=inputs)
