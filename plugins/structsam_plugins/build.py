"""Compile the kernels for this machine without CMake."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .kernels import KernelError

SOURCES = Path(__file__).parent / "csrc"
"""The sources; `CMakeLists.txt` is beside them. Both are in the wheel."""
_FLAGS = ("-std=c++17", "-O3", "-shared")


def build(device: str, folder: Path, arch: str = "native") -> Path:
    """Compile the kernels, with warnings as errors.

    Args:
        device: ``cuda`` (compiled by nvcc) or ``cpu`` (compiled by g++).
        folder: an existing folder for the library.
        arch: GPU architecture as nvcc's ``-arch``; ``native`` is the GPU of this machine.

    Returns:
        The path of the library.

    Raises:
        KernelError: the sources or the compiler are missing, or the compiler reports an error or a warning.
    """
    if device == "cuda":
        compiler, source = "nvcc", SOURCES / "structsam.cu"
        flags = [f"-arch={arch}", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror"]
    else:
        compiler, source, flags = "g++", SOURCES / "host.cpp", ["-fPIC", "-Wall", "-Wextra", "-Werror"]
    if not source.is_file():
        raise KernelError(f"{source} is missing from this installation; install structsam again")
    if (found := shutil.which(compiler)) is None:
        raise KernelError(f"the kernels for {device} need {compiler}, which is not installed")
    library = folder / f"libstructsam_{device}.so"
    command = [found, *_FLAGS, *flags, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"{compiler} cannot compile {source.name}: {done.stderr.strip()}")
    return library
