"""The device code compiles."""

from pathlib import Path

from structsam_plugins import Kernels


def test_nvcc_compiles_the_kernels_without_a_warning(cuda_library: Path) -> None:
    assert Kernels(cuda_library)
