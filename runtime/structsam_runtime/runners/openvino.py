"""OpenVINO, on the CPU."""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError
from . import TABLE
from .base import Array, Memory, Runner, TensorSpec
from .onnxfile import EXPORT, Axes, OnnxFile, check_export, check_file, check_threads, weights

NAME = "openvino"
"""The name of the runner."""
OPTIONS = {
    # One run at a time, on all cores: what a picture takes, not how many pictures an hour.
    "PERFORMANCE_HINT": "LATENCY",
    # The types of the file are the precision. By default OpenVINO computes fp32 in bf16 where the CPU can.
    "EXECUTION_MODE_HINT": "ACCURACY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    # Pinned threads of several processes would share a core and leave others idle.
    "ENABLE_CPU_PINNING": "NO",
}
"""Options of a compiled model."""
SHAPES = 256
"""Sets of input shapes that a compiled model runs before it is compiled anew, which takes a decoder 0.2 s.

It keeps code for each set: 0.5 MB of a decoder, without end, whatever CPU_RUNTIME_CACHE_CAPACITY is."""
CACHE = "STRUCTSAM_OPENVINO_CACHE"
"""Environment variable: a folder for compiled models, which open faster; without it none are kept."""
_TELEMETRY = "openvino_telemetry"


class OpenVinoRunner(Runner):
    """An ONNX file in OpenVINO, on the CPU.

    The precision is that of the file: fp32 is computed in fp32, also on CPUs with bf16, and fp16 in fp16
    where the CPU has it, in fp32 elsewhere. Runs take turns, each on all cores.

    :meth:`memory` reports the size of the files as weights; OpenVINO does not report activations.

    Args:
        path: the ONNX file, or OpenVINO's own .xml.
        name: ``openvino``.
        threads: CPU threads; by default one per core that the process may use.
        export: id of the export that the file must belong to; None accepts any.

    Raises:
        UserError: ``threads`` is below 1. On entering the ``with`` block: the file is missing or is not a
            model, or OpenVINO is not installed. From :meth:`infer` also: the run failed.
    """

    def __init__(
        self, path: Path, name: str = NAME, threads: int | None = None, export: str | None = None
    ) -> None:
        check_threads(threads)
        super().__init__(str(path))
        self.path, self.threads, self.export = path, threads, export
        self._core: Any = None
        self._request: Any = None
        self._seen: set[tuple[tuple[int, ...], ...]] = set()  # shapes that the compiled model has run

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        check_file(self.path)
        self._core = library().Core()
        with ExitStack() as stack:
            stack.callback(self._close)
            compiled = self._compile()
            told = OnnxFile({}, {}, {}) if self.path.suffix == ".xml" else OnnxFile.read(self.path)
            check_export(self.path, told.metadata.get(EXPORT), self.export)
            specs = _specs(compiled.inputs, told.inputs), _specs(compiled.outputs, told.outputs)
            stack.pop_all()
        return specs

    def _close(self) -> None:
        self._core = self._request = None
        self._seen.clear()

    def _compile(self) -> Any:
        """Compile the model, and let go of the one that was."""
        self._request = None
        self._seen.clear()
        with self._one_line("load"):
            compiled = self._core.compile_model(self._model(), "CPU", self._options())
            self._request = compiled.create_infer_request()
        return compiled

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        shapes = tuple(feeds[name].shape for name in self.inputs)
        if self._request is None or (shapes not in self._seen and len(self._seen) >= SHAPES):
            self._compile()
        self._seen.add(shapes)
        with self._one_line("run"):
            made = self._request.infer(dict(feeds))
        return dict(zip(self.outputs, made.values(), strict=True))

    def _memory(self) -> Memory:
        return Memory(weights=weights(self.path), activations=None)

    def _model(self) -> Any:
        """The model to compile.

        It is read first: OpenVINO's cache tells models apart by their content, but files only by their paths,
        and would go on with the weights that were in one before.
        """
        return stable(self._core.read_model(self.path))

    def _options(self) -> dict[str, str]:
        threads = {"INFERENCE_NUM_THREADS": str(self.threads)} if self.threads else {}
        cache = {"CACHE_DIR": os.environ[CACHE]} if os.environ.get(CACHE) else {}
        return {**OPTIONS, **threads, **cache}

    @contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Raise a failure, such as a file that is no model or too little memory, as UserError."""
        try:
            yield
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise UserError(f"OpenVINO cannot {what} {self.path}: {error}") from error


def library() -> ModuleType:
    """OpenVINO's Python module, imported here and nowhere else.

    As soon as it is imported it reports that to Google Analytics, and writes an id into the user's home. The
    package that does so is hidden from it: nobody was asked. What is imported before is as its user wants it.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    install = f"pip install {TABLE[NAME].install}"
    try:
        with unreported():
            return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {install}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"openvino cannot be imported: {error}; {install}") from error


@contextmanager
def unreported() -> Iterator[None]:
    """Hide the package by which OpenVINO and its tools report their use while they are imported."""
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as of a package that is not installed
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


def stable(model: Any) -> Any:
    """A model whose TopK takes the lower index of equal values first, as ONNX says; changed in place.

    OpenVINO takes any of them unless it is told so, and plans of merging would differ.
    """
    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)
    return model


def _specs(ports: list[Any], said: Axes) -> dict[str, TensorSpec]:
    """Inputs or outputs, in the order of the file, with its names for dynamic axes.

    OpenVINO drops them, and computes something from lengths that do not match.
    A tensor has several names where OpenVINO removes a node that changes nothing: the file's own is meant.
    """
    specs: dict[str, TensorSpec] = {}
    for port in ports:
        own = (name for name in said if name in port.get_names() and name not in specs)
        name = next(own, None) or port.get_any_name()
        axes = said.get(name) or [f"{name}.{place}" for place in range(len(port.partial_shape))]
        shape = tuple(
            axis.get_length() if axis.is_static else named
            for axis, named in zip(port.partial_shape, axes, strict=True)
        )
        specs[name] = TensorSpec(np.dtype(port.element_type.to_dtype()), shape)
    return specs
