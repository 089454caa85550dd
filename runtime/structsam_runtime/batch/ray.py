"""A folder of pictures segmented by many processes, on this machine or on those of a Ray cluster."""

import json
import logging
import os
import socket
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from ..benchmarking.machine import cores
from ..errors import UserError
from ..runners import kind_of
from .attempts import ATTEMPTS, attempt
from .job import Job
from .segment import Outcome, Segmenter

LOCAL = "local"
"""The address of a cluster that is started here for one run."""
SHARES = 64
"""Into so many tasks for each worker the pictures are divided: what is lost with a worker is one of them."""
PATIENCE = 5
"""Seconds to wait for a cluster to answer."""


class Worker:
    """What one process of the cluster does: a model, opened with its first picture, and pictures.

    Mistakes of a person are rows like any other. Raised in a worker, they would reach the driver as a
    traceback inside a traceback, and opening the model in the constructor would be tried again and again.
    Rows are JSON, which is ASCII whatever bytes a picture's name has; Ray's columns take UTF-8 alone.
    """

    def __init__(self, job: Job, threads: int | None, openings: Path, limit: int) -> None:
        """See `_open` for the last two."""
        self._job, self._threads = job, threads
        self._openings, self._limit = openings, limit
        self._segment: Segmenter | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """A picture's name in; its outcome out, or the error that ends the run."""
        try:
            self._segment = self._segment or self._open()
            outcome = attempt(self._job, json.loads(row["image"]), self._segment)
            return {"outcome": json.dumps(asdict(outcome))}
        except UserError as error:
            return {"outcome": json.dumps({"end": f"{error} (on {socket.gethostname()})"})}

    def _open(self) -> Segmenter:
        """The model; the end of the process closes it.

        Where it takes more memory than there is for each worker, they die of it and no picture is to blame. A
        file of the run has a line for each that began, until one comes through.
        """
        with suppress(OSError):  # where the folder is not shared, which opening finds out
            with self._openings.open("a", encoding="utf-8") as file:
                file.write("begun\n")
            if self._openings.read_text(encoding="utf-8").count("\n") > self._limit:
                raise UserError(
                    f"workers die while they open {self._job.model}, of a crash or for want of memory; "
                    "use fewer --workers"
                )
        segmenter = Segmenter(self._job, self._threads).__enter__()
        self._openings.unlink(missing_ok=True)
        return segmenter


def run(
    job: Job, images: Sequence[str], address: str, workers: int | None = None
) -> Generator[Outcome, None, None]:
    """Segment pictures on a cluster, in no particular order.

    Pictures are read and results written by the workers: every machine must see the three folders of the job
    under the same paths, and have this package. A worker that dies is replaced, and its pictures are looked
    at again, but for those that have their result and those that ATTEMPTS workers died of.

    Args:
        job: begun.
        images: paths within the folder of pictures.
        address: of a Ray cluster, as `ray.init` takes it; ``local`` starts one here.
        workers: processes, each with a model; default: one for each GPU, or where the job runs on the CPU one
            for each machine. The cores are shared out among them.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or none with a GPU for a job that
            needs one; workers die before the model is open; or, from a worker, as `Segmenter`. What is done
            by then stays.
    """
    ray = _import()
    openings = job.output / f".{uuid.uuid4().hex}.openings"
    with _connected(ray, address, workers):
        count, reserved, threads = _shares(ray, job, workers)
        rows = ray.data.from_items(
            [{"image": json.dumps(image)} for image in images],
            override_num_blocks=min(len(images), SHARES * count),
        )
        # Ray Data restarts the processes of such a pool, and repeats their tasks, without limit. Limits are
        # in `attempt` and in the worker.
        pool = ray.data.ActorPoolStrategy(size=count)
        arguments = (job, threads, openings, count + ATTEMPTS)
        looked = rows.map(Worker, fn_constructor_args=arguments, compute=pool, **reserved)
        try:
            for row in looked.iter_rows():
                outcome = json.loads(row["outcome"])
                if "end" in outcome:
                    raise UserError(outcome["end"])
                yield Outcome(**outcome)
        finally:
            openings.unlink(missing_ok=True)


def _shares(ray: Any, job: Job, workers: int | None) -> tuple[int, dict[str, int], int | None]:
    """How many workers, what Ray reserves for each, and the threads of each."""
    has = ray.cluster_resources()
    if kind_of(job.runner).device == "cuda":
        if not has.get("GPU"):
            raise UserError(f"runner '{job.runner}' needs a GPU, and the cluster has none; use cpu")
        return workers or int(has["GPU"]), {"num_gpus": 1}, None
    count = workers or sum(node["Alive"] for node in ray.nodes())
    return count, {"num_cpus": 1}, max(1, int(has.get("CPU", 1)) // count)


@contextmanager
def _connected(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    own: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody was asked whether they want to report
        own = {
            "num_cpus": max(cores(), workers or 1),
            "include_dashboard": False,
            "object_store_memory": 10**8,
        }
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster that can be used at {address}: {error}; start one with `ray start --head`, "
            f"or use {LOCAL}"
        ) from error
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at a host and port: Ray would go on trying for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _import() -> Any:
    try:
        import_module("ray.data")
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise UserError(f'a cluster needs {error.name}; pip install "structsam[cluster]"') from error
