"""The parts of CUDA that a runner needs, on the first GPU, with cuda-python: memory, a stream, a graph."""

import importlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError
from .base import Array, DeviceArray

_REMEDIES = {
    "cudaErrorNoDevice": "this needs a machine with an NVIDIA GPU",
    "cudaErrorInsufficientDriver": (
        "this needs an NVIDIA GPU, and a driver as new as cuda-python; "
        'for an older driver, pip install "cuda-python<13"'
    ),
    "cudaErrorMemoryAllocation": "end other programs on the GPU, or build the engine for smaller shapes",
}
"""The advice for errors that a user can fix."""


class CudaError(Exception):
    """A CUDA call failed for a reason that a user cannot fix."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines run on."""

    name: str  # NVIDIA H200
    capability: str  # its compute capability: 9.0


def gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        UserError: there is none, its driver is too old, or cuda-python is not installed.
    """
    properties = _call("cudaGetDeviceProperties", 0)
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


def free_memory() -> int:
    """Free memory of the GPU in bytes.

    Raises:
        UserError: there is no GPU, or cuda-python is not installed.
    """
    error, free, _ = _cudart().cudaMemGetInfo()
    _require(error, "cudaMemGetInfo")
    return int(free)


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
        self._finalizer = weakref.finalize(self, _call, "cudaFree", self.pointer)
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
        _call("cudaGraphExecDestroy", self._handle)


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
            _cudart().cudaStreamEndCapture(self.handle)  # fails too, but the error of `work` is more useful
            raise
        captured = _call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(captured)
        finally:
            _call("cudaGraphDestroy", captured)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        _call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Release it."""
        _call("cudaStreamDestroy", self.handle)


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
            'cuda-python is not installed; pip install "structsam[gpu]" for TensorRT, '
            '"structsam[rtx]" for TensorRT-RTX'
        ) from error


def _call(function: str, *arguments: Any) -> Any:
    """Call a CUDA function; returns its value, or None if it returns only an error code.

    Raises:
        UserError: it failed, and a user can fix the reason.
        CudaError: it failed for any other reason.
    """
    error, *values = getattr(_cudart(), function)(*arguments)
    _require(error, function)
    return values[0] if values else None


def _require(error: Any, function: str) -> None:
    """Raise as `_call`, unless the function succeeded."""
    cudart = _cudart()
    if error != cudart.cudaError_t.cudaSuccess:
        said = f"{function}: {cudart.cudaGetErrorString(error)[1].decode()}"
        if error.name in _REMEDIES:
            raise UserError(f"CUDA failed in {said}; {_REMEDIES[error.name]}")
        raise CudaError(said)
