"""The kernels on small layers in a process of its own, under a tool of compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = "compute-sanitizer"
FOUND = 9
"""Exit code for what a tool finds."""


def available() -> bool:
    """Whether compute-sanitizer is on the path."""
    return shutil.which(PROGRAM) is not None


def small_check(library: Path, device: str, tool: str | None, seconds: float) -> None:
    """Run `python -m structsam_export.gpu.layers` and wait for it.

    Args:
        library: the kernels.
        device: cuda or cpu.
        tool: memcheck or racecheck; None runs without compute-sanitizer.
        seconds: the process is ended after them.

    Raises:
        RuntimeError: the kernels are wrong, or the process ended by itself; with the last lines it printed.
        TimeoutError: it took longer.
    """
    wrapped = [PROGRAM, "--tool", tool, "--error-exitcode", str(FOUND)] if tool else []
    command = [*wrapped, sys.executable, "-m", f"{__package__}.layers", str(library), device]
    # Every array is an allocation of its own, so that the tool sees what lies beyond its end.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    # A session of its own, because the tool's child would outlive the tool.
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"not finished after {seconds:.0f} s") from error
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: " + "; ".join(told.strip().splitlines()[-4:]))
