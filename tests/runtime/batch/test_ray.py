"""structsam batch on a cluster of two workers: the same results, whatever dies."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime import UserError
from structsam_runtime.batch import ray as cluster
from structsam_runtime.batch.job import begin, plan
from structsam_runtime.batch.segment import Outcome

PICTURES = 24


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, NDArray[np.uint8]]) -> Path:
    """A folder of pictures, the last but one cut short, and a box for each."""
    folder = tmp_path_factory.mktemp("desk")
    boxes = {}
    for index in range(PICTURES):
        name = f"{index % 3}/{index:02d}.png"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos["coffee" if index % 2 else "chelsea"]).save(folder / "images" / name)
        boxes[name] = {"boxes": [[10 * index, 20, 200 + 10 * index, 250], [30, 40, 50, 60]]}
    cut = folder / "images" / "1" / "22.png"
    cut.write_bytes(cut.read_bytes()[:5000])
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def start(desk: Path, model: Path, output: str, *options: str) -> subprocess.Popen[str]:
    line = f"-m structsam_runtime batch images -o {output} --model {model} --prompts boxes.json"
    return subprocess.Popen(
        [sys.executable, *line.split(), *options],
        cwd=desk,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, last line of stdout (Ray tells above it who died), stderr; nothing of it runs afterwards."""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out.splitlines()[-1], err


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with what is in it; the half-written file of a killed process is hidden."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes below one that hold a model: Ray names them after the class that they run."""
    parents: dict[int, int] = {}
    named: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if b"ray::" in command and b"Worker" in command:
            named.append(int(folder.name))

    def below(one: int) -> bool:
        return one == process.pid or (one in parents and below(parents[one]))

    return [one for one in named if below(one)]


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the worker's process in /proc")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `cluster` is not installed")
def test_a_killed_worker_loses_nothing_and_a_rerun_skips_what_is_done(
    desk: Path, export_folder: Path
) -> None:
    code, out, _ = end(start(desk, export_folder, "serial"))
    told = f"{PICTURES - 1} pictures segmented, 0 were, 1 failed"
    assert (code, out) == (3, f"serial: {told}")

    process = start(desk, export_folder, "many", "--address", "local", "--workers", "2")
    while process.poll() is None and not list((desk / "many").glob("*/*.json")):
        time.sleep(0.02)
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    done = len(list((desk / "many").glob("*/*.json")))
    assert done < PICTURES - 1, "it was killed in the middle"
    code, out, err = end(process)
    assert (code, out) == (3, f"many: {told}"), err
    assert contents(desk / "many") == contents(desk / "serial")

    removed = desk / "many" / "0" / "03.png.json"
    removed.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (desk / "many").glob("*/*.json")}
    code, out, err = end(start(desk, export_folder, "many", "--address", "local", "--workers", "1"))
    assert (code, out) == (3, f"many: 1 pictures segmented, {PICTURES - 2} were, 1 failed"), err
    assert contents(desk / "many") == contents(desk / "serial")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


class FakeRay:
    """As much of Ray as the driver calls, in this process: a worker, and rows one after another."""

    def __init__(self, resources: dict[str, float], machines: int = 1) -> None:
        self.resources, self.machines = resources, machines
        self.open = False
        self.data = SimpleNamespace(
            from_items=self.from_items,
            ActorPoolStrategy=lambda size: size,
            DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace()),
        )

    def init(self, address: str, **_: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("nobody answers")
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}] * self.machines + [{"Alive": False}]

    def from_items(self, rows: list[dict[str, str]], override_num_blocks: int) -> Self:
        assert override_num_blocks <= len(rows)
        self.rows = rows
        return self

    def map(self, worker: Any, fn_constructor_args: Any, compute: int, **reserved: int) -> Self:
        self.workers, self.reserved, (_, self.threads) = compute, reserved, fn_constructor_args
        self.worker = worker(*fn_constructor_args)
        return self

    def iter_rows(self) -> Iterator[dict[str, str]]:
        assert self.open
        yield from map(self.worker, self.rows)


@pytest.fixture
def job(desk: Path, export_folder: Path, tmp_path: Path) -> Any:
    """A job that was not begun."""
    return plan(desk / "images", tmp_path / "masks", export_folder, prompts=desk / "boxes.json")[0]


@pytest.mark.parametrize(
    ("runner", "workers", "count", "reserved", "threads"),
    [
        ("cpu", None, 2, {"num_cpus": 1}, 16),
        ("cpu", 4, 4, {"num_cpus": 1}, 8),
        ("cpu", 64, 64, {"num_cpus": 1}, 1),
        ("cuda", None, 3, {"num_gpus": 1}, None),
        ("cuda", 2, 2, {"num_gpus": 1}, None),
    ],
)
def test_cores_are_shared_out_and_gpus_are_not(
    job: Any,
    monkeypatch: pytest.MonkeyPatch,
    runner: str,
    workers: int | None,
    count: int,
    reserved: dict[str, int],
    threads: int | None,
) -> None:
    ray = FakeRay({"CPU": 32.0, "GPU": 3.0}, machines=2)
    monkeypatch.setattr(cluster, "_import", lambda: ray)
    monkeypatch.setattr(cluster, "Worker", lambda *_: lambda row: row | {"error": "", "end": ""})
    made = list(cluster.run(dataclasses.replace(job, runner=runner), ["a.png"], "auto", workers))
    assert made == [Outcome("a.png", None)]
    assert (ray.workers, ray.reserved, ray.threads) == (count, reserved, threads)
    assert not ray.open


def test_mistakes_that_a_worker_finds_end_the_run_in_one_line(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay({"CPU": 2.0})
    monkeypatch.setattr(cluster, "_import", lambda: ray)
    with pytest.raises(UserError, match=r"batch\.json.* cannot be read: .* \(on "):
        list(cluster.run(job, ["0/00.png"], "auto"))
    assert not ray.open
    begin(job)
    made = list(cluster.run(job, ["0/00.png", "1/22.png"], "auto"))
    assert [outcome.image for outcome in made] == ["0/00.png", "1/22.png"]
    assert made[0].error is None
    assert "cannot be read as a picture" in str(made[1].error)
    assert [path.name for path in job.output.rglob("*.png.json")] == ["00.png.json"]
    with pytest.raises(UserError, match="runner 'cuda' needs a GPU, and the cluster has none"):
        list(cluster.run(dataclasses.replace(job, runner="cuda"), ["0/00.png"], "auto"))
    with pytest.raises(UserError, match="no Ray cluster that can be used at nowhere: nobody answers; start"):
        list(cluster.run(job, ["0/00.png"], "nowhere"))
