"""Comparable timings: all calls interleaved in one run, with a description of the machine."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import track

from ..runners import cuda, kind_of
from ..runners.base import Array, Runner
from .machine import cores, counted, gpus, processor
from .memory import peak_memory

Key = TypeVar("Key", bound=Hashable)
PACKAGES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx", "cuda-python"),
)
"""Packages whose versions affect timings."""
_CPUINFO = Path("/proc/cpuinfo")
_GPU_FACTS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "driver_version", "persistence_mode")


def interleaved(
    calls: Mapping[Key, Callable[[], object]], repeat: int, description: str = "timing"
) -> dict[Key, list[float]]:
    """Time calls in turns, so that a change of the machine's speed affects all of them.

    A first turn warms up and is not counted.

    Args:
        calls: the functions by name.
        repeat: timed calls of each function.
        description: label of the progress bar.

    Returns:
        Seconds of every timed call, by name.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    for turn in track(range(repeat + 1), description=description, transient=True):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: Sequence[float], first: Sequence[float]) -> dict[str, Any]:
    """Median and extremes of timings, and their ratios to the reference.

    Args:
        seconds: timings, at least one.
        first: timings of the reference, at least one.
    """
    median, least = statistics.median(seconds), min(seconds)
    return {
        "median_s": round(median, 7),
        "min_s": round(least, 7),
        "max_s": round(max(seconds), 7),
        "ratio_median": round(median / statistics.median(first), 4),
        "ratio_min": round(least / min(first), 4),
        "seconds": [round(value, 7) for value in seconds],
    }


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a process that only runs one runner, in bytes; None if it cannot be measured."""

    host: int | None
    device: int | None  # free GPU memory before minus after the run: memory pools keep their peak


def footprint(make: Callable[[], Runner], feeds: Mapping[str, Array], on_device: bool = False) -> Footprint:
    """Peak memory of a runner that is opened and run once, in a separate process.

    Args:
        make: makes the runner; it and its arguments must be picklable.
        feeds: the inputs by name.
        on_device: whether the runner uses a GPU.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_footprint, make, dict(feeds), on_device).result()


def _footprint(make: Callable[[], Runner], feeds: dict[str, Array], on_device: bool) -> Footprint:
    free = cuda.free_memory() if on_device else 0
    with peak_memory() as host, make() as runner:
        runner.infer(feeds)
        used = free - cuda.free_memory() if on_device else None
    return Footprint(host[0] if host else None, used)


def environment(*runners: str) -> dict[str, Any]:
    """Date, machine and versions of a measurement, for a result file.

    Args:
        runners: one of RUNNERS, or several.

    Raises:
        UserError: a runner is unknown, or its library is not installed.
    """
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": cores(),
        "gpus": gpus(),
        "clocks": clocks(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "runner": ", ".join(runners),
        "library": ", ".join(kind_of(runner).library(runner) for runner in runners),
    }


def conditions(result: Mapping[str, Any]) -> str:
    """Machine, library, date and repetitions of a result file, as the line above its table."""
    machine = result["machine"]
    where = ", ".join([machine["processor"], counted(machine["cores"]), *machine["gpus"]])
    library = f"{machine['library']} ({machine['runner']})"
    return f"{where}, {library}, {machine['date']}, {result['repeat']} interleaved runs"


def versions() -> dict[str, str]:
    """Versions of the installed PACKAGES."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def clocks() -> list[str]:
    """Clock rates of the processor and of every GPU with its limits, as far as the system reports them."""
    text = _CPUINFO.read_text() if _CPUINFO.is_file() else ""
    rates = [float(line.partition(":")[2]) for line in text.splitlines() if line.startswith("cpu MHz")]
    told = [f"CPU {min(rates):.0f} to {max(rates):.0f} MHz"] if rates else []
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FACTS)}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return told
    facts = (zip(_GPU_FACTS, line.split(","), strict=False) for line in lines)
    return told + ["GPU " + ", ".join(f"{name} {value.strip()}" for name, value in pairs) for pairs in facts]


def as_row(memory: Footprint) -> dict[str, int | None]:
    """The entries of a result file, in bytes."""
    return {f"peak_{where}": size for where, size in asdict(memory).items()}
