"""How much memory something takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The largest resident size of this process while the block runs.

    Yields a list to which the size in bytes is appended when the block ends: weights and libraries that were
    there before count, memory of other devices does not. Only Linux lets a process forget an earlier peak;
    elsewhere the list stays empty.
    """
    measured: list[int] = []
    forgotten = _forget_peak()
    yield measured
    if forgotten:
        status = (_PROCESS / "status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        measured.append(1024 * int(kilobytes))


def _forget_peak() -> bool:
    """Whether the process could forget its earlier peak."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True
