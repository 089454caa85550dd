"""Time of an ONNX file by operator, from ONNX Runtime's profiler."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..runners.base import Array
from ..runners.onnxruntime import OnnxRuntimeRunner


class ProfiledRunner(OnnxRuntimeRunner):
    """ONNX Runtime with its profiler.

    Args:
        path, provider, threads: see OnnxRuntimeRunner.
        folder: folder for the profiler's file.
    """

    def __init__(self, path: Path, provider: str, threads: int | None, folder: Path) -> None:
        super().__init__(path, provider, threads)
        self.folder = folder

    def _options(self, ort: ModuleType) -> Any:
        options = super()._options(ort)
        options.enable_profiling, options.profile_file_prefix = True, str(self.folder / "profile")
        return options

    def events(self) -> list[dict[str, Any]]:
        """The events of all runs so far; ends the profiling."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text())
        return events


def operators(
    path: Path, provider: str, feeds: Mapping[str, Array], runs: int = 3, threads: int | None = None
) -> dict[str, float]:
    """Seconds of one run by operator, the slowest first: means over the runs after the first.

    The operators are those of ONNX Runtime's optimised graph, in which some are fused. On a GPU ONNX Runtime
    reports the time to launch the kernels.

    Args:
        path: the ONNX file.
        provider: name of a provider; see OnnxRuntimeRunner.
        feeds: the inputs by name.
        runs: number of measured runs.
        threads: CPU threads; by default one per core.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProfiledRunner(path, provider, threads, Path(folder)) as runner,
    ):
        for _ in range(runs + 1):
            runner.infer(feeds)
        events = runner.events()
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= starts[1]:
            seconds[event["args"]["op_name"]] += event["dur"] / 1e6 / runs
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
