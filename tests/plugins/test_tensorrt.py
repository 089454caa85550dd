"""The TensorRT plugins, created, asked and run as TensorRT does it: on the CPU, around the same kernels.

Needs TensorRT's headers, which are NVIDIA's: set TENSORRT_ROOT to a folder that has include/NvInfer.h.
"""

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.merging.kernels import TensorKernels
from structsam_plugins import Kernels, Layer
from structsam_plugins.build import SOURCES

from .conftest import Features, compiler

TYPES = {torch.float32: 0, torch.float16: 1, torch.int32: 3}  # of TensorRT's DataType
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"

NAMES = ["StructsamScore", "StructsamSelect", "StructsamMerge", "StructsamUnmerge"]
REGISTRY = """
    import sys
    from pathlib import Path

    import numpy as np
    import tensorrt_rtx as trt
    from structsam_runtime.runners.tensorrt import load_plugins

    for _ in range(2):
        load_plugins(trt, Path(sys.argv[1]))
    for name in ("StructsamScore", "StructsamSelect", "StructsamMerge", "StructsamUnmerge"):
        creator = trt.get_plugin_registry().get_creator(name, "1", "")
        values = {"side": 14, "cell": 2, "merged": 36, "heads": 1}
        fields = [
            trt.PluginField(key, np.array([value], np.int32), trt.PluginFieldType.INT32)
            for key, value in values.items()
        ]
        given = trt.PluginFieldCollection(fields)
        if creator.create_plugin("layer", given, trt.TensorRTPhase.BUILD) is not None:
            print(name)
"""
Drive = Callable[..., list[Tensor]]


class Description(ctypes.Structure):
    """`Tensor` of drive.cpp."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("values", ctypes.c_void_p),
    )


@pytest.fixture(scope="session")
def plugin_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Plugins, kernels for the CPU and drive.cpp in one library."""
    headers = Path(os.environ.get("TENSORRT_ROOT", "")) / "include"
    for header in (headers / "NvInfer.h", CUDA / "cuda_runtime_api.h"):
        if not header.is_file():
            pytest.skip(f"no {header.name} here; TENSORRT_ROOT and CUDA_HOME say where they are")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC"]
    sources = [
        SOURCES / "tensorrt" / "library.cpp",
        SOURCES / "host.cpp",
        Path(__file__).with_name("drive.cpp"),
    ]
    includes = [f"-isystem{folder}" for folder in (headers, CUDA)]
    library = tmp_path_factory.mktemp("plugins") / "libdrive.so"
    command = [compiler("g++"), *flags, *includes, *map(str, sources), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return ctypes.CDLL(str(library))


@pytest.fixture
def drive(plugin_library: Any) -> Drive:
    """`drive(name, attributes, *inputs)`: outputs of a plugin, of the types and shapes that it says."""

    def call(name: str, attributes: Sequence[int], inputs: Sequence[Tensor], outputs: int) -> list[Tensor]:
        numbers = (ctypes.c_int32 * 4)(*attributes)
        given = (Description * len(inputs))(*map(describe, inputs))
        asked = (Description * outputs)()
        arguments = (name.encode(), numbers, given, len(inputs), asked, outputs)
        require(plugin_library.drive(*arguments, 0))
        kinds = {number: dtype for dtype, number in TYPES.items()}
        made = [torch.empty(*one.shape[: one.rank], dtype=kinds[one.type]) for one in asked]
        for one, tensor in zip(asked, made, strict=True):
            one.values = tensor.data_ptr()
        require(plugin_library.drive(*arguments, 1))
        return made

    return call


def describe(tensor: Tensor) -> Description:
    shape = (ctypes.c_int64 * 4)(*tensor.shape)
    return Description(TYPES[tensor.dtype], tensor.dim(), shape, tensor.data_ptr())


def require(code: int) -> None:
    assert code == 0, f"drive.cpp failed in step {code}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_by_plugins_is_the_layer_by_kernels(
    dtype: torch.dtype, drive: Drive, host_library: Path, features: Features
) -> None:
    x = features(20).to(dtype)
    layer = Layer(*x.shape, 14, 2, 36, 4)
    kernels = TensorKernels(Kernels(host_library))
    attributes = 14, 2, 36, 4
    score, member = drive("StructsamScore", attributes, [x], 2)
    check([score, member], kernels.score(layer, x))
    slot, token, position = drive("StructsamSelect", attributes, [score, member], 3)
    check([slot, token, position], kernels.select(layer, score, member))
    (slots,) = drive("StructsamMerge", attributes, [x, token], 1)
    check([slots], [kernels.merge(layer, x, token)])
    (total,) = drive("StructsamUnmerge", attributes, [slots, slot, x], 1)
    check([total], [kernels.unmerge(layer, slots, slot, x)])


def check(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("attributes", [(14, 3, 1, 1), (14, 2, 50, 1), (14, 2, 0, 1), (0, 2, 1, 1)])
def test_invalid_attributes_give_no_plugin(
    attributes: tuple[int, ...], drive: Drive, features: Features
) -> None:
    with pytest.raises(AssertionError, match="step 3"):
        drive("StructsamScore", attributes, [features(14)], 2)


def test_the_real_registry_loads_the_library_and_makes_plugins(plugin_library: Any) -> None:
    """TensorRT-RTX's, which needs no GPU for it; in another process, for it keeps what it has loaded."""
    pytest.importorskip("tensorrt_rtx")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REGISTRY), plugin_library._name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, NAMES), done.stderr


def test_channels_of_an_unsupported_size_are_an_error_of_the_run(drive: Drive, features: Features) -> None:
    x = features(14)[..., :6].contiguous()
    token = torch.arange(196, dtype=torch.int32).expand(3, -1).contiguous()
    with pytest.raises(AssertionError, match="step 10"):
        drive("StructsamMerge", (14, 2, 36, 1), [x, token], 1)
