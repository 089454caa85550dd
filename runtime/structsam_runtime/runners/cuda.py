"""The parts of CUDA that a runner needs, on the first GPU, with cuda-python: memory, a stream, a graph."""

import importlib
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError
from . import TABLE
from .base import Array, DeviceArray

_NO_DRIVER = "this needs a machine with an NVIDIA GPU and its driver"
_REMEDIES = {
    "cudaErrorNoDevice": "this needs a machine with an NVIDIA GPU",
    "cudaErrorInsufficientDriver": (
        "this needs an NVIDIA GPU, and a driver as new as cuda-python; "
        'for an older driver, pip install "cuda-python<13"'
    ),
    "cudaErrorMemoryAllocation": "end other programs on the GPU, or build the engine for smaller shapes",
}
"""The advice for errors that a user can fix."""


class CudaError(UserError):
    """A CUDA call failed."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines run on."""

    name: str  # NVIDIA H200
    capability: str  # its compute capability: 9.0


def gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        UserError: there is none, its driver is missing or too old, or cuda-python is not installed.
    """
    properties = _call("cudaGetDeviceProperties", 0)
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


def free_memory() -> int:
    """Free memory of the GPU in bytes.

    Raises:
        UserError: there is no GPU, or cuda-python is not installed.
    """
    return int(_call("cudaMemGetInfo"))


def total_memory() -> int:
    """Memory of the GPU in bytes, free or not. Raises as :func:`gpu`."""
    return int(_call("cudaGetDeviceProperties", 0).totalGlobalMem)


def newest() -> str:
    """The newest CUDA that the driver runs, such as 13.0. Raises as :func:`gpu`."""
    version = int(_call("cudaDriverGetVersion"))
    return f"{version // 1000}.{version % 1000 // 10}"


class CudaArray(DeviceArray):
    """An array in GPU memory, freed with its last reference or by :meth:`free`.

    Args:
        shape: the shape; any axis may be 0.
        dtype: type of the elements.

    Raises:
        UserError: the GPU has not enough free memory.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.pointer = int(_call("cudaMalloc", max(1, self.nbytes)))  # a valid address for empty arrays too
        self._finalizer = weakref.finalize(self, _release, "cudaFree", self.pointer)
        self._finalizer.atexit = False  # at exit the driver frees all memory, and may already be unloaded

    def free(self) -> None:
        """Free the memory; calling it again does nothing."""
        self._finalizer()

    def numpy(self) -> Array:
        """A copy of the values."""
        if not self._finalizer.alive:
            raise UserError("the runner of this array is closed; read the array while the runner is open")
        values = np.empty(self.shape, self.dtype)
        _call("cudaMemcpy", values.ctypes.data, self.pointer, self.nbytes, _any_direction())
        return values


class Graph:
    """A CUDA graph of the work captured on a stream."""

    def __init__(self, captured: Any) -> None:
        self._handle = _call("cudaGraphInstantiate", captured, 0)

    def launch(self, stream: "Stream") -> None:
        """Queue the graph on a stream."""
        _call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Release it."""
        _release("cudaGraphExecDestroy", self._handle)


class Stream:
    """A CUDA stream: copies and engine runs, executed in order."""

    def __init__(self) -> None:
        self.handle = _call("cudaStreamCreate")

    def copy(self, to: Array | CudaArray, source: Array | CudaArray) -> None:
        """Queue a copy, of as many bytes as the smaller array has.

        Args:
            to, source: C-contiguous arrays in CPU or GPU memory; keep them alive until :meth:`wait` returns.
        """
        size = min(to.nbytes, source.nbytes)
        _call("cudaMemcpyAsync", _address(to), _address(source), size, _any_direction(), self.handle)

    def capture(self, work: Callable[[], object]) -> Graph:
        """Capture the work that `work` queues on this stream as a graph, without executing it."""
        mode = _cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
        except BaseException:
            _release("cudaStreamEndCapture", self.handle)
            raise
        captured = _call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(captured)
        finally:
            _release("cudaGraphDestroy", captured)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        _call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Release it."""
        _release("cudaStreamDestroy", self.handle)


def _address(array: Array | CudaArray) -> int:
    return array.pointer if isinstance(array, CudaArray) else array.ctypes.data


def _any_direction() -> Any:
    """The copy direction that the driver infers from the addresses."""
    return _cudart().cudaMemcpyKind.cudaMemcpyDefault


def _cudart() -> ModuleType:
    # Not at the top: only engines need it.
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UserError(
            f"cuda-python cannot be imported: {error}; pip install {TABLE['tensorrt'].install} for TensorRT, "
            f"{TABLE['tensorrt-rtx'].install} for TensorRT-RTX"
        ) from error


def _call(function: str, *arguments: Any) -> Any:
    """Call a CUDA function; returns its first value, or None if it returns only an error code.

    Raises:
        CudaError: it failed, or there is no driver. With advice, where there is any.
        UserError: cuda-python cannot be imported.
    """
    cudart = _cudart()
    try:
        error, *values = getattr(cudart, function)(*arguments)
    except RuntimeError as absent:  # of older versions of cuda-python, without the driver's library
        raise CudaError(f"CUDA failed in {function}: {absent}; {_NO_DRIVER}") from absent
    if error != cudart.cudaError_t.cudaSuccess:
        said = f"CUDA failed in {function}: {cudart.cudaGetErrorString(error)[1].decode()}"
        raise CudaError("; ".join([said, *filter(None, [_REMEDIES.get(error.name)])]))
    return values[0] if values else None


def _release(function: str, handle: Any) -> None:
    """Give something back. After a run that failed this fails too, with nothing left to give back."""
    with suppress(CudaError):
        _call(function, handle)
