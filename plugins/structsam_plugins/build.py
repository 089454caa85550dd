"""The kernels compiled for the machine at hand, where CMake would be too much."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .kernels import KernelError

SOURCES = Path(__file__).parent / "csrc"
"""What is compiled; `CMakeLists.txt` is beside it. Both are in the wheel."""
_FLAGS = ("-std=c++17", "-O3", "-shared")


def build(device: str, folder: Path, arch: str = "native") -> Path:
    """Compile the kernels into a folder, without a warning; returns the library.

    Args:
        device: ``cuda``, by nvcc, or ``cpu``, by g++.
        folder: is there.
        arch: of the GPU, as nvcc has it; native is the one that is here.

    Raises:
        KernelError: the source is not here, the compiler is not, or it had something to say.
    """
    if device == "cuda":
        compiler, source = "nvcc", SOURCES / "structsam.cu"
        flags = [f"-arch={arch}", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror"]
    else:
        compiler, source, flags = "g++", SOURCES / "host.cpp", ["-fPIC", "-Wall", "-Wextra", "-Werror"]
    if not source.is_file():
        raise KernelError(f"{source} is not here, though it belongs to structsam; install it again")
    if (found := shutil.which(compiler)) is None:
        raise KernelError(f"the kernels for {device} need {compiler}, which is not installed")
    library = folder / f"libstructsam_{device}.so"
    command = [found, *_FLAGS, *flags, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"{compiler} does not compile {source.name}: {done.stderr.strip()}")
    return library
