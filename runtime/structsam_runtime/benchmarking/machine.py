"""Describe the machine of a measurement."""

import os
import platform
from pathlib import Path

_GPUS = Path("/proc/driver/nvidia/gpus")


def processor() -> str:
    """The model name of the processor; on Linux Python's `platform` knows only its family."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs, from the driver's files on Linux; empty elsewhere."""
    files = sorted(_GPUS.glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


def machine() -> str:
    """Processor, cores and GPUs as text."""
    return ", ".join([processor(), counted(cores()), *gpus()])


def counted(number: int) -> str:
    """A number of cores as text: `1 core`, `2 cores`."""
    return f"{number} core{'' if number == 1 else 's'}"
