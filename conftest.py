"""A core for each process that runs tests, before any library counts cores.

Threads of several processes on the same cores wait for each other. A process that is given its core when
PyTorch has counted two already lets two threads wait for each other on one: tests take ten times as long.
"""

import os

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})
