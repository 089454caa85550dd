"""The kernels, compiled for the CPU and, where there is one, for the GPU; and features to run them on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor, nn

from structsam_export.merging.kernels import TensorKernels
from structsam_plugins import Kernels
from structsam_plugins.build import build
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare

Features = Callable[..., Tensor]


def compiler(name: str) -> str:
    """Where a compiler is; a test that needs it is skipped where it is not."""
    return shutil.which(name) or pytest.skip(f"no {name} here to compile the kernels with")


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for the CPU."""
    compiler("g++")
    return build("cpu", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for a GPU; which need not be there."""
    compiler("nvcc")
    arch = "native" if torch.cuda.is_available() else "sm_80"
    return build("cuda", tmp_path_factory.mktemp("cuda"), arch)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the kernels run: both compute the same, from the same source."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU here")
    return str(request.param)


@pytest.fixture
def kernels(device: str, request: pytest.FixtureRequest) -> TensorKernels:
    """The kernels for the device."""
    library = request.getfixturevalue("cuda_library" if device == "cuda" else "host_library")
    return TensorKernels(Kernels(library))


@pytest.fixture(scope="session")
def features(sam: Model) -> Features:
    """What a layer sees of three photographs: `features(grid)` is [3, grid, grid, 64] fp32.

    Of a patch embedding with seeded weights and a layer normalisation. With `exact` it is rounded to
    quarters, so few bits that sums over channels are exact in fp32: their order then changes nothing.
    """

    @torch.no_grad()
    def make(grid: int, exact: bool = False) -> Tensor:
        model = replace(sam, image_size=16 * grid, embedding=(256, grid, grid), low_res=4 * grid)
        pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
        images = torch.cat([torch.from_numpy(prepare(picture, model)[0]) for picture in pictures])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            embed = nn.Conv2d(3, 64, 16, 16)  # SAM's patch embedding
        x = nn.functional.layer_norm(embed(images).permute(0, 2, 3, 1), (64,))
        return (x * 4).round().clamp(-12, 12) / 4 if exact else x

    return make
