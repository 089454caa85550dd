"""What the tests of both sides share."""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from structsam_runtime.cli.program import structsam
from structsam_runtime.manifest import Model

# Examples of a property: few while one works, many where a change is let in. No test has a number of its own.
settings.register_profile("quick", max_examples=8, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

# A core for each process that runs tests: threads of several processes on the same cores wait for each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})

SCRIPTS = Path(__file__).parents[1] / "scripts"
SAM = Model(
    arch="vit_b",
    image_size=1024,
    embedding=(256, 64, 64),
    low_res=256,
    mask_threshold=0.0,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    precision="fp32",
)

Ended = tuple[int | str | None, str, str]


@pytest.fixture(scope="session")
def sam() -> Model:
    """The sizes and constants of SAM."""
    return SAM


@pytest.fixture
def run_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Ended]:
    """Runs a script by its name without .py on a line of arguments: exit code, stdout, stderr."""

    def call(name: str, line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *line.split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], Ended]:
    """Runs a command of `structsam` in this process on a line of arguments: exit code, stdout, stderr."""

    def call(name: str, line: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            structsam([name, *line.split()])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The commands of the documents take longest and run one after another: they start first."""
    items.sort(key=lambda item: item.get_closest_marker("readme") is None)
