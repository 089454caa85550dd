"""Peak memory of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the peak resident size of this process inside a `with` block.

    Weights and libraries loaded before the block are included, memory of GPUs is not. Only Linux can reset an
    earlier peak; on other systems the list stays empty.

    Yields:
        A list; the peak in bytes is appended to it when the block ends.
    """
    measured: list[int] = []
    forgotten = _forget_peak()
    yield measured
    if forgotten:
        status = (_PROCESS / "status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        measured.append(1024 * int(kilobytes))


def _forget_peak() -> bool:
    """Reset the peak of this process; False if the system does not support it."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True
