"""Peaks of memory: what a block took, and nothing that was there before it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime import Predictor
from structsam_runtime.benchmarking import memory
from structsam_runtime.benchmarking.memory import peak_memory

MIB = 2**20


def resident() -> int:
    """Bytes of this process now."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmRSS")))


@pytest.fixture
def linux() -> None:
    """Skips where a process cannot forget its peak."""
    with peak_memory() as peak:
        pass
    if not peak:
        pytest.skip("/proc/self/clear_refs cannot be written here")


PEAKS = """
import numpy as np
from structsam_runtime.benchmarking.memory import peak_memory

with peak_memory() as before:
    pass
with peak_memory() as during:
    assert np.ones(2**28, np.uint8).all()
with peak_memory() as after:
    pass
print(during[0] - before[0], during[0] - after[0])
"""


@pytest.mark.usefixtures("linux")
def test_memory_of_the_block_and_none_that_was_freed_before_is_in_the_peak() -> None:
    """In a process of its own: memory that other tests freed in this one may be used again."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    taken, freed = (int(count) for count in done.stdout.split())
    assert 250 * MIB < taken < 400 * MIB  # pages are counted with a delay, and others are made
    assert freed > 200 * MIB


def test_on_other_systems_no_peak_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    with peak_memory() as peak:
        pass
    assert peak == []


@pytest.mark.usefixtures("linux")
def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), peak_memory():
        raise ZeroDivisionError


@pytest.mark.long
@pytest.mark.usefixtures("linux")
def test_hundreds_of_pictures_in_a_row_do_not_grow(
    export_folder: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    """What a picture leaves behind would be a hundredth of what is allowed: an embedding alone is 4 MiB."""
    with Predictor.load(export_folder, threads=1) as predictor:
        sizes = []
        for index in range(200):
            picture = list(photos.values())[index % len(photos)]
            predictor.set_image(picture)
            predictor.predict(box=[10, 10, 200, 250])
            sizes.append(resident())
    assert max(sizes[150:]) - max(sizes[:50]) < 16 * MIB
