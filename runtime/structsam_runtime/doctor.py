"""What is installed on this machine, and which runners work on it."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import __version__
from .errors import UserError, printable
from .runners import RUNNERS, cuda, kind_of
from .runners.onnxruntime import library
from .runners.tensorrt import bindings, logger

_LIBRARIES = (
    ("numpy", ("numpy",), None),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "[cpu] or [cuda]"),
    ("openvino", ("openvino",), "[openvino]"),
    ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), "[tensorrt]"),
    ("tensorrt-rtx", ("tensorrt-rtx",), "[rtx]"),
    ("cuda-python", ("cuda-python", "cuda-bindings"), "[tensorrt] or [rtx]"),
    ("torch", ("torch",), "[export]"),
    ("onnx", ("onnx",), "[export]"),
)
"""Libraries, the distributions that may bring each, and extras of structsam that do."""
_MODEL = bytes.fromhex(
    "08093a620a0f0a01780a01771201792204436f6e7612002a13080108010801080110012204000000404201775a1b0a0178"
    "12160a14080112100a0208010a0208010a0208010a020801621b0a017912160a14080112100a0208010a0208010a020801"
    "0a02080142040a001011"
)
"""An ONNX file: y = 2 x, by a convolution, which on a GPU needs cuDNN. Float32 [1, 1, 1, 1]."""
_GPU_FACTS = ("name", "compute_cap", "memory.total", "driver_version")
_PATIENCE = 120
"""Seconds that a runner or the driver may take to answer."""


@dataclass(frozen=True)
class Library:
    """A library that structsam can use."""

    name: str
    versions: tuple[str, ...]  # "onnxruntime-gpu 1.31.1"; of one library two may be installed, and break it
    install: str | None  # extras that bring it


@dataclass(frozen=True)
class Gpu:
    """The first GPU."""

    name: str
    capability: str  # 8.7
    memory: int | None  # bytes; None where it is the machine's own or the driver does not say
    driver: str | None  # its version
    cuda: str | None  # the newest that the driver runs: 13.0


@dataclass(frozen=True)
class Trial:
    """Whether a runner works here."""

    runner: str
    works: bool
    told: str  # library and version, or the reason


@dataclass(frozen=True)
class Commands:
    """Commands that need PyTorch, and what is missing for them."""

    names: tuple[str, ...]
    missing: tuple[str, ...]  # packages
    install: str


@dataclass(frozen=True)
class Findings:
    """All that is found."""

    structsam: str
    python: str
    system: str  # Linux aarch64
    libraries: tuple[Library, ...]
    providers: tuple[str, ...]  # of ONNX Runtime
    gpu: Gpu | None
    no_gpu: str | None  # why none was found
    runners: tuple[Trial, ...]
    pytorch: Commands


def examine(commands: Sequence[str], packages: Sequence[str], extra: str) -> Findings:
    """Look at this machine; tries every runner. Raises nothing for what is missing.

    Args:
        commands: names of those that need PyTorch.
        packages: what they import.
        extra: of structsam, that brings those packages.
    """
    gpu, no_gpu = _gpu()
    missing = tuple(name for name in packages if find_spec(name) is None)
    return Findings(
        structsam=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries=tuple(Library(name, _versions(names), extras) for name, names, extras in _LIBRARIES),
        providers=_providers(),
        gpu=gpu,
        no_gpu=no_gpu,
        runners=tuple(tried(name) for name in RUNNERS),
        pytorch=Commands(tuple(commands), missing, f'pip install "structsam[{extra}]"'),
    )


def tried(runner: str) -> Trial:
    """Try a runner in a process of its own, which a broken library may end.

    Args:
        runner: one of RUNNERS.
    """
    command = [sys.executable, "-m", __name__, runner]
    # What lies in the folder somebody is in is not imported; "-m" would, up to Python 3.10 in any case.
    env = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(runner, False, f"it did not answer in {_PATIENCE} s")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = printable(" ".join(done.stderr.split()[-12:]))
        return Trial(runner, False, f"its process ended with {done.returncode}: {said or 'no message'}")
    return Trial(runner, lines[-1].startswith("works "), lines[-1].partition(" ")[2])


def attempt(runner: str) -> str:
    """Run what can be run without an export; returns name and version of the library.

    For .onnx files, a model of one convolution. For engines, which there are none of, the library is loaded
    and finds the GPU.

    Raises:
        UserError: it does not work.
    """
    kind = kind_of(runner)
    told = kind.library(runner)
    if kind.file == "onnx":
        _run_model(runner)
    else:
        cuda.gpu()
        trt = bindings(runner)
        trt.Runtime(logger(trt))
    return told


def _run_model(runner: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "convolution.onnx"
        path.write_bytes(_MODEL)
        with kind_of(runner).open(path, runner, threads=1) as opened:
            found = float(opened.infer({"x": np.full((1, 1, 1, 1), 3, np.float32)})["y"].item())
    if found != 6:
        raise UserError(f"it computes 2 x 3 = {found}")


def _versions(names: Sequence[str]) -> tuple[str, ...]:
    """The distributions that are installed, with their versions."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)


def _providers() -> tuple[str, ...]:
    try:
        return tuple(library().get_available_providers())
    except UserError:
        return ()


def _gpu() -> tuple[Gpu | None, str | None]:
    """The GPU as cuda-python sees it, or else as the driver's own program does; or why there is none."""
    facts = _driver_facts()
    driver = facts.get("driver_version")
    try:
        here = cuda.gpu()
        return Gpu(here.name, here.capability, cuda.total_memory(), driver, cuda.newest()), None
    except UserError as error:
        if not facts:
            return None, str(error)
    memory = facts["memory.total"]
    size = int(memory) * 2**20 if memory.isdigit() else None
    return Gpu(facts["name"], facts["compute_cap"], size, driver, None), None


def _driver_facts() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; empty where it is not there or fails."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FACTS)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in told.partition("\n")[0].split(",")]
    return dict(zip(_GPU_FACTS, values, strict=True)) if len(values) == len(_GPU_FACTS) else {}


def report(found: Findings) -> str:
    """The findings as text for a terminal."""
    return "\n".join(
        [
            f"structsam {found.structsam}, Python {found.python}, {found.system}",
            *_section("libraries", [_library(one, found.providers) for one in found.libraries]),
            *_section("GPU", [_gpu_line(found)]),
            *_section("runners", [(one.runner, _outcome(one)) for one in found.runners]),
            *_section("commands that need PyTorch", [_commands(found.pytorch)]),
        ]
    )


def _section(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return ["", title, *(f"  {name:{width}}  {told}" for name, told in rows)]


def _library(one: Library, providers: Sequence[str]) -> tuple[str, str]:
    if not one.versions:
        return one.name, f"not installed; {one.install} brings it" if one.install else "not installed"
    offered = f" ({', '.join(providers)})" if one.name == "onnxruntime" and providers else ""
    return one.name, ", ".join(text.removeprefix(f"{one.name} ") for text in one.versions) + offered


def _gpu_line(found: Findings) -> tuple[str, str]:
    if found.gpu is None:
        return "none found", found.no_gpu or ""
    gpu = found.gpu
    facts = {
        "compute capability": gpu.capability,
        "memory": gpu.memory and f"{gpu.memory / 2**30:.1f} GiB",
        "driver": gpu.driver,
        "CUDA": gpu.cuda and f"up to {gpu.cuda}",
    }
    return gpu.name, ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)


def _outcome(one: Trial) -> str:
    return f"works: {one.told}" if one.works else f"does not work: {one.told}"


def _commands(one: Commands) -> tuple[str, str]:
    lacks = f"lack {', '.join(one.missing)}; {one.install}" if one.missing else "work here"
    return ", ".join(one.names), lacks


def _answer(runner: str) -> str:
    """The line that `tried` reads."""
    try:
        return f"works {attempt(runner)}"
    except UserError as error:
        return f"fails {error}"
    except Exception as error:  # libraries that do not fit a machine raise what they like
        return f"fails {UserError(f'{type(error).__name__}: {error}')}"


if __name__ == "__main__":
    print(_answer(sys.argv[1]))
