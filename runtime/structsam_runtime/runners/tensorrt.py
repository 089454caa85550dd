"""Engines of TensorRT and TensorRT-RTX, run with the libraries' own Python bindings."""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np

from ..errors import Caution, UserError
from ..manifest import Manifest
from . import TABLE, cuda
from .base import Array, DeviceArray, Memory, Runner, TensorSpec, as_text

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python modules of the libraries."""
PLUGINS = "plugins.so"
"""The library of plugins in the folder of an export whose engines need one."""
_PLUGIN = ("StructsamScore", "1", "")
"""Name, version and namespace of one plugin; one library contains all of them."""

Shape = tuple[int, ...]


def bindings(library: str) -> ModuleType:
    """The Python module of ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(LIBRARIES[library])
    except (ImportError, OSError, RuntimeError) as error:  # it loads libraries of CUDA and its own
        raise UserError(
            f"{library} needs the Python package {LIBRARIES[library]}, which cannot be imported: {error}; "
            f"pip install {TABLE[library].install}"
        ) from error


def logger(trt: Any) -> Any:
    """A logger that keeps errors and prints nothing; its base class differs between the libraries."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

        def told(self) -> str:
            """The errors since the last call, in one line."""
            told = "; ".join(self.errors)
            self.errors.clear()
            return told

    return Logger()


def load_plugins(trt: Any, path: Path) -> None:
    """Register the plugins of a library with TensorRT, unless they are registered already.

    Args:
        trt: the Python module of TensorRT.
        path: the library; see plugins/README.md.

    Raises:
        UserError: there is no such file, TensorRT cannot load it, or it has other plugins.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; expected a library of plugins, as plugins/README.md builds it")
    registry = trt.get_plugin_registry()
    if registry.get_creator(*_PLUGIN) is not None:
        return
    if registry.load_library(str(path)) is None:
        raise UserError(
            f"TensorRT {trt.__version__} cannot load {path}; build it on this machine: see plugins/README.md"
        )
    if registry.get_creator(*_PLUGIN) is None:
        raise UserError(f"{path} has no {_PLUGIN[0]}; expected the library that plugins/README.md builds")


def check_engine(folder: Path, manifest: Manifest, library: str) -> None:
    """Check that an export has engines for this library and this GPU, before loading them.

    Args:
        folder: the export.
        manifest: its manifest.
        library: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        UserError: it has no engines, or engines of another library, version or GPU, or with TF32; the line
            ends with the command that builds them here. Or the library, cuda-python or a GPU is missing.

    Warns:
        Caution: the manifest does not say whether they use TF32.
    """
    built = manifest.engine
    if built is None or built.library != library:
        told = "no engines" if built is None else f"engines of {built.library}, none of {library}"
        raise UserError(f"{folder} has {told}; {manifest.rebuild(folder, library)}")
    version, gpu = str(bindings(library).__version__), cuda.gpu()
    if built.version != version:
        raise UserError(
            f"the engines of {folder} need {library} {built.version}, which built them; installed is "
            f"{version}; {manifest.rebuild(folder, library)}"
        )
    named = built.gpu or f"compute capability {' or '.join(built.capabilities)}"
    here = f"the engines of {folder} are for {named}; this GPU is {gpu.name}, {gpu.capability}"
    if built.capabilities and gpu.capability not in built.capabilities:
        # TensorRT-RTX builds for all GPUs that it supports.
        raise UserError(f"{here}; {manifest.rebuild(folder, 'tensorrt')}")
    if built.gpu not in (None, gpu.name):
        raise UserError(f"{here}; {manifest.rebuild(folder, library)}")
    _check_tf32(folder, built.tf32, manifest.rebuild(folder, library))


def _check_tf32(folder: Path, tf32: bool | None, remedy: str) -> None:
    rounded = "TF32, which rounds the inputs of fp32 products to 10 bits of mantissa"
    if tf32:
        raise UserError(f"the engines of {folder} were built with {rounded}; {remedy}")
    if tf32 is None:
        told = (
            f"the manifest of {folder} does not say that its engines were built without {rounded}; {remedy}"
        )
        warnings.warn(Caution(told), stacklevel=3)


class EngineError(UserError):
    """A loaded engine failed to run."""


class TensorRtRunner(Runner):
    """An engine file, run with the library that built it and with its first optimisation profile.

    Buffers for inputs and outputs are allocated once, for the largest shapes of the profile. Outputs of
    :meth:`infer_on_device` have separate GPU memory, freed with the last reference or when the runner closes.

    Args:
        path: the engine file. Only the library checks it; :func:`structsam_runtime.runners.create` also
            checks it against the manifest of its export.
        library: ``tensorrt`` or ``tensorrt-rtx``.
        cuda_graph: run the engine as one CUDA graph, which avoids launching hundreds of kernels. For TensorRT
            the graph is captured in the second run with the same shapes, and again after a change of shapes.
            TensorRT-RTX captures it internally. Inputs on the GPU are then copied to a buffer, because a
            graph reads fixed addresses.
        plugins: the library of plugins that the engine was built with; None for none.
        contract: the inputs with names for their dynamic axes, which an engine does not keep; see
            :mod:`structsam_runtime.contract`. Shapes that do not match are then refused before TensorRT sees
            them: TensorRT 10.3 raises its error without Python's lock, and may end the process.

    Raises:
        UserError: the library is unknown. On entering the ``with`` block: the file is missing or the library
            cannot load it, the library or cuda-python is not installed, or there is no GPU or not enough GPU
            memory. From :meth:`infer` also: a shape is outside the profile.
        EngineError: from :meth:`infer`: the engine failed to run.
    """

    _native = cuda.CudaArray

    def __init__(
        self,
        path: Path,
        library: str,
        cuda_graph: bool = False,
        plugins: Path | None = None,
        contract: Mapping[str, TensorSpec] | None = None,
    ) -> None:
        if library not in LIBRARIES:
            raise UserError(f"library '{library}' is unknown, expected one of {', '.join(LIBRARIES)}")
        super().__init__(str(path))
        self.path, self.library, self.cuda_graph, self.plugins = path, library, cuda_graph, plugins
        self.contract = contract or {}
        self._stack = ExitStack()
        self._engine: Any = None
        self._context: Any = None
        self._buffers: dict[str, cuda.CudaArray] = {}
        self._arrays: WeakSet[cuda.CudaArray] = WeakSet()  # the buffers, and outputs on the GPU
        self._shapes: dict[str, Shape] = {}  # input shapes set in the context
        self._runs = 0  # number of runs with these shapes
        self._graph: cuda.Graph | None = None

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        if not self.path.is_file():
            raise UserError(f"no file {self.path}; expected an engine of {self.library}")
        trt = bindings(self.library)
        cuda.gpu()  # before the library, which reports a missing GPU in many lines
        with ExitStack() as stack:
            stack.callback(self._forget)
            self._log = logger(trt)
            if self.plugins:
                load_plugins(trt, self.plugins)
            self._engine = self._load(trt)
            self._context = self._created(trt)
            self._stream = stack.enter_context(closing(cuda.Stream()))
            stack.callback(self._free)
            found = self._specs(trt, trt.TensorIOMode.INPUT)
            inputs = {name: _named(spec, self.contract.get(name, spec)) for name, spec in found.items()}
            outputs = self._specs(trt, trt.TensorIOMode.OUTPUT)
            self._limits = {name: self._limit(name, spec) for name, spec in inputs.items()}
            self._buffers = self._allocated(inputs, outputs)
            self._stack = stack.pop_all()
        return inputs, outputs

    def _close(self) -> None:
        self._stack.close()

    def _load(self, trt: Any) -> Any:
        engine = trt.Runtime(self._log).deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:
            raise UserError(
                f"{self.library} {trt.__version__} cannot load {self.path}; it may be truncated, of another "
                f"version or for another GPU; build it again: {self._log.told()}"
            )
        return engine

    def _created(self, trt: Any) -> Any:
        """An execution context, which allocates the memory of the activations."""
        if self.cuda_graph and self.library == "tensorrt-rtx":
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise UserError(
                f"{self.library} has not enough GPU memory to run {self.path}: {self._log.told()}"
            )
        return context

    def _specs(self, trt: Any, mode: Any) -> dict[str, TensorSpec]:
        """Inputs or outputs. Engines do not store names of dynamic axes, so each axis gets a unique name."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return {
            name: TensorSpec(
                np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))),
                tuple(
                    length if length >= 0 else f"{name}.{axis}"
                    for axis, length in enumerate(self._engine.get_tensor_shape(name))
                ),
            )
            for name in names
            if self._engine.get_tensor_mode(name) == mode
        }

    def _limit(self, name: str, spec: TensorSpec) -> tuple[Shape, Shape]:
        """The smallest and the largest shape of an input."""
        fixed = tuple(length for length in spec.shape if isinstance(length, int))
        if len(fixed) == len(spec.shape):  # the profile may lack it
            return fixed, fixed
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(smallest), tuple(largest)

    def _allocated(
        self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> dict[str, cuda.CudaArray]:
        """Buffers for the largest inputs and the corresponding outputs."""
        largest = {name: shape for name, (_, shape) in self._limits.items()}
        self._set_shapes(largest)
        shapes = {**largest, **{name: tuple(self._context.get_tensor_shape(name)) for name in outputs}}
        buffers = {
            name: self._allocate(shapes[name], spec.dtype) for name, spec in {**inputs, **outputs}.items()
        }
        for name, buffer in buffers.items():
            self._context.set_tensor_address(name, buffer.pointer)
        return buffers

    def _allocate(self, shape: Shape, dtype: np.dtype[Any]) -> cuda.CudaArray:
        """GPU memory that is freed at the latest when the runner closes."""
        array = cuda.CudaArray(shape, dtype)
        self._arrays.add(array)
        return array

    def _free(self) -> None:
        self._drop_graph()
        for array in list(self._arrays):
            array.free()

    def _forget(self) -> None:
        self._context = None  # before its engine
        self._engine = None
        self._buffers, self._shapes = {}, {}

    def _check(self, feeds: Mapping[str, Array | DeviceArray]) -> None:
        super()._check(feeds)
        for name, (smallest, largest) in self._limits.items():
            shape = feeds[name].shape
            bounds = zip(smallest, shape, largest, strict=True)
            if not all(low <= length <= high for low, length, high in bounds):
                raise UserError(
                    f"{self.name}: input '{name}' has shape {as_text(shape)}, the engine was built for "
                    f"{as_text(smallest)} to {as_text(largest)}"
                )

    def longest(self, name: str) -> int:
        """The longest first axis of an input that the engine was built for."""
        return self._limits[name][1][0]

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        return self._executed(feeds, np.empty)

    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        return self._executed(feeds, self._allocate)

    def _executed(
        self, feeds: Mapping[str, Any], make: Callable[[Shape, np.dtype[Any]], Any]
    ) -> dict[str, Any]:
        """Run the engine, and copy its outputs into new arrays made by `make`."""
        feeds = {
            name: np.ascontiguousarray(feed) if isinstance(feed, np.ndarray) else feed
            for name, feed in feeds.items()
        }
        self._set_shapes({name: feed.shape for name, feed in feeds.items()})
        with self._one_line():
            for name, feed in feeds.items():
                self._bind(name, feed)
            self._enqueue()
            outputs = {
                name: make(tuple(self._context.get_tensor_shape(name)), spec.dtype)
                for name, spec in self.outputs.items()
            }
            for name, output in outputs.items():
                self._stream.copy(output, self._buffers[name])
            self._stream.wait()
        return outputs

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Say what failed to run where CUDA says why."""
        try:
            yield
        except cuda.CudaError as error:
            raise EngineError(f"{self.library} failed to run {self.path}: {error}") from error

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        if shapes == self._shapes:
            return
        self._drop_graph()
        self._shapes, self._runs = {}, 0  # until all shapes are set
        for name, shape in shapes.items():
            self._context.set_input_shape(name, shape)
        try:
            self._context.infer_shapes()
        except RuntimeError as error:
            told = ", ".join(f"{name} {as_text(shape)}" for name, shape in shapes.items())
            raise UserError(
                f"{self.name}: shapes of inputs do not match: {told}: {self._log.told()}"
            ) from error
        self._shapes = shapes

    def _bind(self, name: str, feed: Array | cuda.CudaArray) -> None:
        """Set the address of an input: its own if it is on the GPU, or that of its buffer after a copy."""
        if isinstance(feed, np.ndarray) or self.cuda_graph:
            self._stream.copy(self._buffers[name], feed)
            feed = self._buffers[name]
        self._context.set_tensor_address(name, feed.pointer)

    def _enqueue(self) -> None:
        if self._graph is not None:
            self._graph.launch(self._stream)
            return
        self._launch()
        self._runs += 1
        if self.cuda_graph and self.library == "tensorrt" and self._runs == 2:
            self._graph = self._stream.capture(self._launch)  # for later runs

    def _launch(self) -> None:
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise EngineError(f"{self.library} failed to run {self.path}: {self._log.told()}")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _memory(self) -> Memory:
        """The size of the engine file, mostly weights, and of activations and buffers."""
        buffers = sum(buffer.nbytes for buffer in self._buffers.values())
        return Memory(self.path.stat().st_size, self._engine.device_memory_size_v2 + buffers)


def _named(found: TensorSpec, said: TensorSpec) -> TensorSpec:
    """An input of an engine, with the names that a contract has for its dynamic axes.

    Where the contract has one picture and the engine any number of them, the axis is the batch of all inputs.
    """
    shape = list(found.shape)
    for place, axis in enumerate(said.shape[: len(shape)]):
        if isinstance(shape[place], str) and isinstance(axis, str):
            shape[place] = axis
        elif isinstance(shape[place], str) and place == 0:
            shape[place] = "batch"
    return replace(found, shape=tuple(shape))
