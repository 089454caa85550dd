"""What a measurement was taken on."""

import os
import platform
from pathlib import Path

_GPUS = Path("/proc/driver/nvidia/gpus")


def processor() -> str:
    """The processor's own name; Python knows only its family on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Names of NVIDIA's GPUs, from the driver's own files on Linux."""
    files = sorted(_GPUS.glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


def machine() -> str:
    """Processor, cores and GPUs, in words."""
    return ", ".join([processor(), counted(cores()), *gpus()])


def counted(number: int) -> str:
    """Cores, in words."""
    return f"{number} core{'' if number == 1 else 's'}"
