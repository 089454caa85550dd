"""A folder of pictures segmented on this machine, in a process that may die without ending the run."""

import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from ..errors import UserError, one_line
from .attempts import ATTEMPTS, attempt, forget
from .job import Job
from .segment import Outcome, Segmenter

PATIENCE = 5
"""Seconds that a process has to end when it is told to."""


def run(job: Job, images: Iterable[str]) -> Generator[Outcome, None, None]:
    """Segment pictures one after another, in one process beside this one.

    A crash in a library, or the system when memory runs out, ends that process and not this one. It is
    replaced, and the picture is tried again; one that ATTEMPTS processes die of is an outcome as any other.

    Args:
        job: begun.
        images: paths within the folder of pictures.

    Raises:
        UserError: as `Segmenter`, or the process dies of something else than a picture. What is done by then
            stays.
    """
    waiting, died = deque(images), 0
    try:
        while waiting:
            before = len(waiting)
            with _worker(job) as pipe:
                yield from _ask(pipe, waiting)
            died = died + 1 if len(waiting) == before else 0
            if died > ATTEMPTS:
                raise UserError(f"the process that works on {job.images} dies before it begins a picture")
    except KeyboardInterrupt:
        if waiting:
            forget(job, waiting[0])  # its process was told to end
        raise


def _ask(pipe: Connection, waiting: deque[str]) -> Iterator[Outcome]:
    """Have pictures segmented until none is left or the worker dies; only what is answered is taken away."""
    while waiting:
        try:
            pipe.send(waiting[0])
            answer = pipe.recv()
        except (EOFError, OSError):
            return
        if isinstance(answer, UserError):
            raise answer
        waiting.popleft()
        yield answer


@contextmanager
def _worker(job: Job) -> Iterator[Connection]:
    """A pipe to a process that has opened the model; a new one and no fork, as this one may have threads."""
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    process = context.Process(target=_work, args=(job, other_end), daemon=True)
    process.start()
    other_end.close()
    try:
        _await(pipe, process, job)
        yield pipe
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        pipe.close()  # which ends a process that waits for a picture
        process.join(PATIENCE)
        process.kill()
        process.join()
        process.close()


def _await(pipe: Connection, process: SpawnProcess, job: Job) -> None:
    """Raises UserError where the model is not opened, or the process ends before it is."""
    try:
        problem = pipe.recv()
    except (EOFError, OSError) as error:
        process.join()
        raise UserError(
            f"the process that opens {job.model} {_end(process)}, of a crash or for want of memory"
        ) from error
    if problem:
        raise problem


def _end(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _work(job: Job, pipe: Connection) -> None:
    """Answer None when the model is open and then an outcome for each picture, or the error that ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this one
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):  # Windows has one of them
        signal.signal(signal.Signals[name], lambda *_: sys.exit())
    warnings.showwarning = one_line(warnings.showwarning)
    with suppress(EOFError, ConnectionError):  # the other one has ended
        try:
            with Segmenter(job) as segment:
                pipe.send(None)
                while True:
                    pipe.send(attempt(job, pipe.recv(), segment))
        except UserError as error:
            pipe.send(error)
