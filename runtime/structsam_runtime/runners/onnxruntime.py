"""ONNX Runtime, on the CPU or on a GPU."""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError
from . import TABLE
from .base import Array, DeviceArray, Memory, Runner, TensorSpec

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "trt-ep": "TensorrtExecutionProvider",
    "rtx-ep": "NvTensorRTRTXExecutionProvider",
}
"""Their names in ONNX Runtime."""

EXPORT = "structsam.export"
"""Key of the export's id in the metadata of its graphs."""
FOLDED = str(2**20)
"""Bytes of the largest constant that ONNX Runtime may make out of smaller ones."""
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OrtArray(DeviceArray):
    """An OrtValue of ONNX Runtime's, which keeps its own memory."""

    def __init__(self, value: Any) -> None:
        self.dtype, self.shape = np.dtype(_DTYPES[value.data_type()]), tuple(value.shape())
        self.value = value

    def numpy(self) -> Array:
        """The values; on the CPU the very memory."""
        values: Array = self.value.numpy()
        return values


class OnnxRuntimeRunner(Runner):
    """An ONNX file run by ONNX Runtime with the provider that was asked for.

    A provider that cannot start is an error, never a silent fall to another one. ONNX Runtime may still place
    single operators that a GPU provider lacks on the CPU.

    What :meth:`memory` says of the weights is the size of the files: a provider may hold them in another
    precision, or twice. ONNX Runtime does not tell its activations.

    Args:
        path: the ONNX file.
        provider: ``cpu``, ``cuda``, ``trt-ep`` or ``rtx-ep``.
        threads: of the CPU for one operator; default as many as there are cores.
        export: id of the export that the file is said to be of.

    Raises:
        UserError: the provider is unknown. On entering the ``with`` block: the file is missing, is not a
            model or is of another export, ONNX Runtime is not installed, it lacks the provider or cannot
            start it. From :meth:`infer` also: the run failed; it is not repeated on the CPU.
    """

    _native = OrtArray

    def __init__(
        self, path: Path, provider: str = "cpu", threads: int | None = None, export: str | None = None
    ) -> None:
        if provider not in PROVIDERS:
            raise UserError(f"provider '{provider}' is unknown, expected one of {', '.join(PROVIDERS)}")
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}, expected 1 or more")
        super().__init__(str(path))
        self.path, self.provider, self.threads, self.export = path, provider, threads, export
        self._session: Any = None

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        if not self.path.is_file():
            raise UserError(f"no file {self.path}; expected an ONNX model")
        ort = require(self.provider)
        session = self._create(ort)
        # ONNX Runtime may start without a provider whose libraries do not load, and says so only in its log.
        first = session.get_providers()[0]
        if first != PROVIDERS[self.provider]:
            raise UserError(
                f"provider '{self.provider}' could not start and ONNX Runtime chose {first}; "
                "check that the CUDA and TensorRT libraries it was built for are installed"
            )
        said = session.get_modelmeta().custom_metadata_map.get(EXPORT)
        if self.export and said and said != self.export:
            raise UserError(f"{self.path} is of another export than its manifest; copy them again together")
        session.disable_fallback()
        self._session = session
        return _specs(session.get_inputs()), _specs(session.get_outputs())

    def _close(self) -> None:
        self._session = None

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        values = {name: feed.value if isinstance(feed, OrtArray) else feed for name, feed in feeds.items()}
        with self._one_line():
            made = self._session.run(list(self.outputs), values)
        return dict(zip(self.outputs, made, strict=True))

    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        binding = self._session.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, OrtArray):
                binding.bind_ortvalue_input(name, feed.value)
            else:
                binding.bind_cpu_input(name, feed)
        for name in self.outputs:
            binding.bind_output(name, TABLE[self.provider].device)
        with self._one_line():
            self._session.run_with_iobinding(binding)
        return {
            name: OrtArray(value) for name, value in zip(self.outputs, binding.get_outputs(), strict=True)
        }

    def _memory(self) -> Memory:
        files = (self.path, self.path.with_name(f"{self.path.name}.data"))  # weights may be kept apart
        return Memory(weights=sum(file.stat().st_size for file in files if file.is_file()), activations=None)

    def _options(self, ort: ModuleType) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; what matters of the warnings is checked after the start
        # Two defaults spend memory for nothing here. The pattern keeps a second arena beside the first: for
        # ViT-B 1.9 GB instead of 1.4 at rate 0.55, for 64 prompts 3.7 instead of 1.9, in the same time. And
        # gathers of small tables by constant indices would be stored as their results: 1.6 GB at rate 0.
        options.enable_mem_pattern = False
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", FOLDED)
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options

    def _model(self) -> Path | bytes:
        """What the session is made from: the file, or its content."""
        return self.path

    def _create(self, ort: ModuleType) -> Any:
        try:
            return ort.InferenceSession(
                self._model(), self._options(ort), providers=[PROVIDERS[self.provider]], enable_fallback=0
            )
        except _errors(ort) as error:
            raise UserError(
                f"ONNX Runtime cannot load {self.path} with '{self.provider}': {error}"
            ) from error

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Raise UserError where a run fails, of too little memory or a library that does not load."""
        try:
            yield
        except _errors(library()) as error:
            raise UserError(
                f"ONNX Runtime failed to run {self.path} with '{self.provider}': {error}"
            ) from error


def library() -> ModuleType:
    """ONNX Runtime's Python module, imported here and nowhere else.

    It reports no usage: nobody was asked whether they want to. By itself it writes a device id and a database
    of events into the user's cache. A user who wants that sets ORT_DISABLE_TELEMETRY=0.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when it is imported
    # Not at the top: someone with a TensorRT engine needs no ONNX Runtime.
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise UserError(
            f"onnxruntime is not installed; pip install {TABLE['cpu'].install} (or {TABLE['cuda'].install})"
        ) from error


def require(provider: str) -> ModuleType:
    """ONNX Runtime's Python module.

    Raises:
        UserError: it is not installed, or lacks the provider.
    """
    ort = library()
    installed = ort.get_available_providers()
    if PROVIDERS[provider] in installed:
        return ort
    offered = ", ".join(name for name, full in PROVIDERS.items() if full in installed)
    raise UserError(
        f"provider '{provider}' is not in this ONNX Runtime, which offers {offered}; "
        f"pip uninstall onnxruntime, then pip install {TABLE[provider].install}"
    )


def _errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """What a session raises where it cannot start or run; ONNX Runtime has no common base."""
    state = importlib.import_module(f"{ort.__name__}.capi.onnxruntime_pybind11_state")
    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
    )
    return (*(getattr(state, name) for name in (*names, "RuntimeException")), RuntimeError, ValueError)


def _specs(nodes: list[Any]) -> dict[str, TensorSpec]:
    return {node.name: TensorSpec(np.dtype(_DTYPES[node.type]), _shape(node)) for node in nodes}


def _shape(node: Any) -> tuple[int | str, ...]:
    """The shape with a name for every axis of any length; nameless axes get one of their own."""
    return tuple(
        axis if isinstance(axis, int | str) else f"{node.name}.{index}"
        for index, axis in enumerate(node.shape)
    )
