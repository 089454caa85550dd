"""The little of CUDA that a runner needs: memory, a stream, a graph; on the first GPU, by cuda-python."""

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
"""What a person can do about an error."""


class CudaError(Exception):
    """A call that failed for a reason that no person at the keyboard can mend."""


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
    """Bytes of the GPU's memory that nobody has.

    Raises:
        UserError: there is no GPU, or cuda-python is not installed.
    """
    error, free, _ = _cudart().cudaMemGetInfo()
    _require(error, "cudaMemGetInfo")
    return int(free)


class CudaArray(DeviceArray):
    """An array in a GPU's memory, given back when nobody holds the array any more, or by :meth:`free`.

    Raises:
        UserError: the GPU has no room for it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.pointer = int(_call("cudaMalloc", max(1, self.nbytes)))  # an address even where nothing is
        self._finalizer = weakref.finalize(self, _call, "cudaFree", self.pointer)
        self._finalizer.atexit = False  # the driver frees it all, and may be gone by then

    def free(self) -> None:
        """Give the memory back, now and only once."""
        self._finalizer()

    def numpy(self) -> Array:
        """A copy of the values."""
        if not self._finalizer.alive:
            raise UserError("this array is gone with the runner that made it; read it while that is open")
        values = np.empty(self.shape, self.dtype)
        _call("cudaMemcpy", values.ctypes.data, self.pointer, self.nbytes, _any_direction())
        return values


class Graph:
    """Work that was captured on a stream, to be launched as one."""

    def __init__(self, captured: Any) -> None:
        self._handle = _call("cudaGraphInstantiate", captured, 0)

    def launch(self, stream: "Stream") -> None:
        """Queue it."""
        _call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Let go of it."""
        _call("cudaGraphExecDestroy", self._handle)


class Stream:
    """A queue of copies and of runs of an engine, done in order."""

    def __init__(self) -> None:
        self.handle = _call("cudaStreamCreate")

    def copy(self, to: Array | CudaArray, source: Array | CudaArray) -> None:
        """Queue a copy of as many bytes as the smaller of the two has.

        Args:
            to, source: in C order, wherever they are; they must live until :meth:`wait` returns.
        """
        size = min(to.nbytes, source.nbytes)
        _call("cudaMemcpyAsync", _address(to), _address(source), size, _any_direction(), self.handle)

    def capture(self, work: Callable[[], object]) -> Graph:
        """What `work` queues on this stream, as a graph; it is not done now."""
        mode = _cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
        except BaseException:
            _cudart().cudaStreamEndCapture(self.handle)  # fails too, but what `work` said tells more
            raise
        captured = _call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(captured)
        finally:
            _call("cudaGraphDestroy", captured)

    def wait(self) -> None:
        """Until everything queued is done."""
        _call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Let go of it."""
        _call("cudaStreamDestroy", self.handle)


def _address(array: Array | CudaArray) -> int:
    return array.pointer if isinstance(array, CudaArray) else array.ctypes.data


def _any_direction() -> Any:
    """The driver knows from an address whether it is the CPU's or the GPU's."""
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
    """Call CUDA; the value that it returns beside its error, if it has one.

    Raises:
        UserError: what a person can mend.
        CudaError: anything else.
    """
    error, *values = getattr(_cudart(), function)(*arguments)
    _require(error, function)
    return values[0] if values else None


def _require(error: Any, function: str) -> None:
    """Raise what `_call` does, unless a function succeeded."""
    cudart = _cudart()
    if error != cudart.cudaError_t.cudaSuccess:
        said = f"{function}: {cudart.cudaGetErrorString(error)[1].decode()}"
        if error.name in _REMEDIES:
            raise UserError(f"CUDA failed in {said}; {_REMEDIES[error.name]}")
        raise CudaError(said)
