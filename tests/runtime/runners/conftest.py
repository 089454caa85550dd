"""Stand-ins for CUDA and TensorRT, on which the real runner runs where there is no GPU.

They are stricter than the originals: what is queued on a stream is done when somebody waits for it, memory
that was given back is never given out again, and a graph that is launched for other shapes than those that it
was captured with is an error.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

MOST = 4  # largest batch of the engine
LIMITS = {"image": [[1, 3, 4], [MOST, 3, 4]], "label": [[1], [MOST]]}
EVERY = -1  # of the calls of a function
Work = Callable[[], None]


class CudaError(IntEnum):
    """The errors that the tests provoke, under CUDA's own names."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700


class Cuda(ModuleType):
    """`cuda.bindings.runtime`: a GPU whose memory is NumPy's."""

    cudaError_t = CudaError
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[str] = []
        self.failures: dict[str, tuple[int, CudaError]] = {}  # function -> in which of its calls, and how
        self.fatal = (
            False  # whether all calls fail after the first that does, as those after a bad address do
        )
        self.memory: dict[int, Any] = {}
        self.freed: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.captured: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def called(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            which, error = self.failures.get(name, (0, CudaError.cudaSuccess))
            if which in (EVERY, self.calls.count(name)):
                if self.fatal:
                    self.failures = dict.fromkeys(set(dir(Cuda)) - {"cudaGetErrorString"}, (EVERY, error))
                return (error, *[None] * (name not in ("cudaFree", "cudaMemcpy")))
            values = found(*arguments)
            return (CudaError.cudaSuccess, *([] if values is None else [values]))

        return called

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=b"NVIDIA Test", major=9, minor=0)

    def cudaGetErrorString(self, error: CudaError) -> bytes:
        return f"what CUDA says of {error.value}".encode()

    def cudaMalloc(self, size: int) -> int:
        block = np.full(size, 0xA5, np.uint8)
        self.memory[block.ctypes.data] = block
        return block.ctypes.data

    def cudaFree(self, pointer: int) -> None:
        self.freed[pointer] = self.memory.pop(pointer)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: int) -> None:
        for address in (to, source):
            self.check(address, size)
        ctypes.memmove(to, source, size)

    def check(self, address: int, size: int) -> None:
        """That an address of the GPU's is of memory that was not given back, and large enough."""
        for blocks, alive in ((self.memory, True), (self.freed, False)):
            for start, block in blocks.items():
                if start <= address < start + max(1, block.nbytes):
                    assert alive, "memory that was given back"
                    assert address + size <= start + block.nbytes, "beyond the end of the memory"

    def queue(self, stream: int, work: Work) -> None:
        """To be done when somebody waits, or to become a part of a graph."""
        assert stream in self.streams
        (self.streams[stream] if self.captured is None else self.captured).append(work)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        copy = super().__getattribute__("cudaMemcpy")
        self.queue(stream, lambda: copy(to, source, size, kind))

    def cudaStreamCreate(self) -> int:
        stream = 1000 + self.calls.count("cudaStreamCreate")
        self.streams[stream] = []
        return stream

    def cudaStreamDestroy(self, stream: int) -> None:
        assert not self.streams.pop(stream), "work that nobody waited for"

    def cudaStreamSynchronize(self, stream: int) -> None:
        queue = self.streams[stream]
        while queue:
            queue.pop(0)()

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        assert self.captured is None
        self.captured = []

    def cudaStreamEndCapture(self, stream: int) -> list[Work]:
        captured, self.captured = self.captured, None
        assert captured is not None
        return captured

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> int:
        handle = 2000 + self.calls.count("cudaGraphInstantiate")
        self.graphs[handle] = graph
        return handle

    def cudaGraphDestroy(self, graph: list[Work]) -> None:
        """Nothing: what was instantiated lives on."""

    def cudaGraphLaunch(self, handle: int, stream: int) -> None:
        self.streams[stream].extend(self.graphs[handle])

    def cudaGraphExecDestroy(self, handle: int) -> None:
        del self.graphs[handle]


class ILogger:
    """The base class of loggers."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class Engine:
    """Computes double = 2 image, marked = label + 1, for a batch that is open, and a bias that is not."""

    num_io_tensors = 5
    device_memory_size_v2 = 1000
    dtypes: dict[str, Any] = {  # noqa: RUF012
        "image": np.float32, "bias": np.float32, "label": np.int32, "double": np.float32, "marked": np.int32,
    }  # fmt: skip

    def __init__(self, cuda: Cuda, log: Any, broken: str | None) -> None:
        self.cuda, self.log, self.broken = cuda, log, broken
        self.context: Context | None = None

    def get_tensor_name(self, index: int) -> str:
        return list(self.dtypes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "output" if name in ("double", "marked") else "input"

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtypes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"bias": (3, 4), "label": (-1,), "marked": (-1,)}.get(name, (-1, 3, 4))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        smallest, largest = LIMITS[name]
        return [tuple(smallest), tuple(smallest), tuple(largest)]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy="disabled")

    def create_execution_context(self, config: Any = None) -> Any:
        if self.broken == "context":
            self.log.log(ILogger.ERROR, "no memory for activations")
            return None
        self.context = Context(self, config)
        return self.context


class Context:
    """One state of shapes and addresses."""

    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.settled = False  # the first run with new shapes does more than can be captured
        self.launches = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = LIMITS.get(name, [[3, 4], [3, 4]])
        assert all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        self.settled = self.settled and self.shapes.get(name) == shape
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        if self.shapes["image"][0] != self.shapes["label"][0]:
            self.engine.log.log(ILogger.ERROR, "dimensions named batch must be equal")
            raise RuntimeError("shape inference failed")
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[{"double": "image", "marked": "label"}.get(name, name)]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.engine.cuda
        if self.engine.broken == "run" or (self.engine.broken == "capture" and cuda.captured is not None):
            self.engine.log.log(ILogger.ERROR, "a kernel failed")
            self.engine.log.log(ILogger.WARNING, "not of interest")
            return False
        assert self.settled or cuda.captured is None
        self.settled = True
        self.launches += 1
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            assert shapes == self.shapes, "a graph of other shapes"
            image, bias, label, double, marked = (
                self.view(name, addresses[name]) for name in self.engine.dtypes
            )
            double[...] = 2 * image + bias
            marked[...] = label + 1

        cuda.queue(stream, work)
        return True

    def view(self, name: str, address: int) -> Any:
        """The memory of an input or output."""
        dtype, shape = np.dtype(self.engine.dtypes[name]), self.get_tensor_shape(name)
        size = dtype.itemsize * int(np.prod(shape))
        blocks = self.engine.cuda.memory.items()
        assert any(start <= address < start + block.nbytes for start, block in blocks), "not on the GPU"
        self.engine.cuda.check(address, size)
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Library(ModuleType):
    """`tensorrt` or `tensorrt_rtx`: engine files are JSON."""

    ILogger = ILogger
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    __version__ = "10.3.0"

    def __init__(self, name: str, cuda: Cuda) -> None:
        super().__init__(name)
        self.cuda, self.engine = cuda, None
        self.plugins: list[str] = []  # libraries that were loaded

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(
            get_creator=lambda name, version, namespace: "a creator" if self.plugins else None,
            load_library=self.load_library,
        )

    def load_library(self, path: str) -> str | None:
        if Path(path).read_text() != "plugins":
            return None
        self.plugins.append(path)
        return "a handle"

    @staticmethod
    def nptype(dtype: Any) -> Any:
        return dtype

    def Runtime(self, log: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self.load(log, data))

    def load(self, log: Any, data: bytes) -> Engine | None:
        try:
            said = json.loads(data)
        except ValueError:
            log.log(ILogger.ERROR, "the engine ends\ntoo early")
            return None
        if said["version"] != self.__version__:
            log.log(ILogger.INTERNAL_ERROR, f"the engine is of version {said['version']}")
            return None
        self.engine = Engine(self.cuda, log, said["broken"])
        return self.engine


@pytest.fixture
def stand_ins() -> SimpleNamespace:
    """The classes, to be held against the originals."""
    return SimpleNamespace(Cuda=Cuda, Engine=Engine, Context=Context, Library=Library)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A stand-in for cuda-python."""
    stand_in = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", stand_in)
    return stand_in


@pytest.fixture
def library(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A stand-in for both libraries."""
    stand_in = Library("tensorrt", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in)
    return stand_in


@pytest.fixture
def engine_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an engine for the stand-in: `engine_file(broken="run")`, `context`, `capture` or not."""

    def write(version: str = "10.3.0", broken: str | None = None) -> Path:
        path = tmp_path / f"{broken}.engine"
        path.write_text(json.dumps({"version": version, "broken": broken}))
        return path

    return write
