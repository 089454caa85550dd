"""Engines behind one lifecycle: ``with create(folder, "encoder", "cpu") as runner: runner.infer({...})``."""

from pathlib import Path

from ..errors import UserError
from ..manifest import Manifest
from . import cuda
from .base import Runner
from .onnxruntime import PROVIDERS, OnnxRuntimeRunner
from .tensorrt import LIBRARIES, PLUGINS, TensorRtRunner, bindings

RUNNERS = (*PROVIDERS, *LIBRARIES)
"""What `--runner` takes: providers of ONNX Runtime for the .onnx files, libraries for the engines."""


def create(
    folder: Path, part: str, runner: str = "cpu", threads: int | None = None, check_hashes: bool = False
) -> Runner:
    """A runner, to be opened, of one part of an export, whose files are checked against its manifest.

    Args:
        folder: the export.
        part: ``encoder`` or ``decoder``.
        runner: one of RUNNERS.
        threads: of the CPU, for providers of ONNX Runtime; default as many as there are cores.
        check_hashes: compare the sha256 of an .onnx file too, not its size alone. Engines are code as well as
            weights, and always compared.

    Raises:
        UserError: no such runner; no export, or its files are not those that were written; for an engine also
            what :func:`check_engine` raises, and threads.
    """
    file, manifest = file_of(part, runner), Manifest.read(folder)
    if runner in PROVIDERS:
        manifest.check_files(folder, [file], hashes=check_hashes)
        return OnnxRuntimeRunner(folder / file, runner, threads)
    if threads is not None:
        raise UserError(f"threads is {threads}, but {runner} runs on the GPU; leave it out")
    check_engine(folder, manifest, runner)
    plugins = [PLUGINS] if PLUGINS in manifest.files else []
    manifest.check_files(folder, [file, *plugins])
    return TensorRtRunner(folder / file, runner, plugins=folder / PLUGINS if plugins else None)


def file_of(part: str, runner: str) -> str:
    """The file of an export that a runner runs.

    Raises:
        UserError: no such runner.
    """
    if runner not in RUNNERS:
        raise UserError(f"runner '{runner}' is unknown, expected one of {', '.join(RUNNERS)}")
    return f"{part}.{'engine' if runner in LIBRARIES else 'onnx'}"


def check_engine(folder: Path, manifest: Manifest, library: str) -> None:
    """Check, before its engines are loaded, that an export has engines for this library and this GPU.

    Raises:
        UserError: it has none, or of another library, version or GPU, in one line that ends with the command
            that builds them here; or the library, cuda-python or a GPU is missing.
    """
    built = manifest.engine
    if built is None or built.library != library:
        told = "no engines" if built is None else f"engines of {built.library}, none of {library}"
        raise UserError(f"{folder} has {told}; {manifest.remedy(folder, library)}")
    version, gpu = str(bindings(library).__version__), cuda.gpu()
    if built.version != version:
        raise UserError(
            f"the engines of {folder} were built by {library} {built.version}, and run by no other; here is "
            f"{version}; {manifest.remedy(folder)}"
        )
    named = built.gpu or f"compute capability {' or '.join(built.capabilities)}"
    here = f"the engines of {folder} are for {named}; here is {gpu.name}, {gpu.capability}"
    if built.capabilities and gpu.capability not in built.capabilities:
        # What TensorRT-RTX has not built for, it does not support.
        raise UserError(f"{here}; {manifest.remedy(folder, 'tensorrt')}")
    if built.gpu not in (None, gpu.name):
        raise UserError(f"{here}; {manifest.remedy(folder)}")
