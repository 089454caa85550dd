"""A folder of pictures on a cluster: the same results, whatever dies."""

import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from structsam_runtime import UserError
from structsam_runtime.batch import ray as cluster
from structsam_runtime.batch.attempts import ATTEMPTS, deaths
from structsam_runtime.batch.job import Job, begin
from structsam_runtime.batch.segment import Outcome, Segmenter

Begin = Callable[..., Job]
Die = Callable[[Job, str, int], None]
Reading = Callable[[str, str], str]

NAMES = [f"{index % 2}/{index}.png" for index in range(6)]
DEADLY, CUT = "1/3.png", "0/4.png"


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with what is in it, but hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `cluster` is not installed")
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_a_dead_worker_loses_nothing_and_what_it_dies_of_is_named(
    started: Begin, die: Die, reading: Reading, tmp_path: Path
) -> None:
    job = started(*NAMES, code=reading("3.png", "os.kill(os.getpid(), signal.SIGKILL)"))
    cut = job.images / CUT
    cut.write_bytes(cut.read_bytes()[:500])
    die(job, DEADLY, ATTEMPTS - 1)
    outcomes = {one.image: one for one in cluster.run(job, NAMES, cluster.LOCAL, workers=1)}
    assert sorted(outcomes) == sorted(NAMES)
    assert {name: one.stage for name, one in outcomes.items() if one.error} == {
        DEADLY: "process",
        CUT: "read",
    }
    assert deaths(job, DEADLY) == ATTEMPTS

    here = dataclasses.replace(job, output=tmp_path / "here", record={**job.record, "code": None})
    begin(here)
    with Segmenter(here) as segment:
        assert all(segment(name).error is None for name in set(NAMES) - {DEADLY, CUT})
    assert {**contents(job.output), "batch.json": ""} == {**contents(here.output), "batch.json": ""}


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
        self.workers, self.reserved, (_, self.threads, *_) = compute, reserved, fn_constructor_args
        self.worker = worker(*fn_constructor_args)
        return self

    def iter_rows(self) -> Iterator[dict[str, str]]:
        assert self.open
        yield from map(self.worker, self.rows)


@pytest.fixture
def job(started: Begin) -> Job:
    """A job about two pictures, one of them cut short, whose folder of results is not there."""
    made = started("0/00.png", "1/22.png")
    cut = made.images / "1" / "22.png"
    cut.write_bytes(cut.read_bytes()[:500])
    shutil.rmtree(made.output)
    return made


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
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    runner: str,
    workers: int | None,
    count: int,
    reserved: dict[str, int],
    threads: int | None,
) -> None:
    ray = FakeRay({"CPU": 32.0, "GPU": 3.0}, machines=2)
    monkeypatch.setattr(cluster, "_import", lambda: ray)
    monkeypatch.setattr(cluster, "Worker", lambda *_: lambda row: {"outcome": f'{{"image": {row["image"]}}}'})
    made = list(cluster.run(dataclasses.replace(job, runner=runner), ["a.png"], "auto", workers))
    assert made == [Outcome("a.png")]
    assert (ray.workers, ray.reserved, ray.threads) == (count, reserved, threads)
    assert not ray.open


def test_mistakes_that_a_worker_finds_end_the_run_in_one_line(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay({"CPU": 2.0})
    monkeypatch.setattr(cluster, "_import", lambda: ray)
    with pytest.raises(UserError, match=r"batch\.json.* cannot be read: .* \(on "):
        list(cluster.run(job, ["0/00.png"], "auto"))
    assert not job.output.exists()  # a folder that is not shared is not made
    assert not ray.open
    begin(job)
    made = list(cluster.run(job, ["0/00.png", "1/22.png"], "auto"))
    assert made[0] == Outcome("0/00.png")
    assert (made[1].image, made[1].stage) == ("1/22.png", "read")
    assert "cannot be read as a picture" in str(made[1].error)
    assert [path.name for path in job.output.rglob("*.png.json")] == ["00.png.json"]
    with pytest.raises(UserError, match="runner 'cuda' needs a GPU, and the cluster has none"):
        list(cluster.run(dataclasses.replace(job, runner="cuda"), ["0/00.png"], "auto"))
    with pytest.raises(UserError, match="no Ray cluster that can be used at nowhere: nobody answers; start"):
        list(cluster.run(job, ["0/00.png"], "nowhere"))


def test_rows_are_ascii_whatever_a_picture_is_called(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay({"CPU": 2.0})
    monkeypatch.setattr(cluster, "_import", lambda: ray)
    begin(job)
    name = os.fsdecode(b"\xff\xe9.png")
    (outcome,) = cluster.run(dataclasses.replace(job, boxes={name: []}), [name], "auto")
    assert (outcome.image, outcome.stage) == (name, "read")
    assert all(text.isascii() for row in ray.rows for text in row.values())


def test_workers_that_die_while_they_open_the_model_end_the_run(job: Job) -> None:
    begin(job)
    openings, row = job.output / ".openings", {"image": '"0/00.png"'}
    openings.write_text("begun\n" * 4)
    assert json.loads(cluster.Worker(job, 1, openings, 5)(row)["outcome"]) == asdict(Outcome("0/00.png"))
    assert not openings.exists()
    openings.write_text("begun\n" * 5)
    told = json.loads(cluster.Worker(job, 1, openings, 5)(row)["outcome"])["end"]
    assert "workers die while they open" in told
    assert "use fewer --workers" in told
