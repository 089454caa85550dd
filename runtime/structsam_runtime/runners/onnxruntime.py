"""ONNX Runtime, on the CPU or on a GPU."""

import importlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UserError
from . import TABLE, refuse_removed
from .base import Array, DeviceArray, Memory, Runner, TensorSpec
from .onnxfile import EXPORT, check_export, check_file, check_threads, weights
from .placement import RECORD, require_gpu

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Names of the execution providers in ONNX Runtime."""
SETTINGS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""Options of the providers. TF32, on by default, rounds inputs of fp32 products to 10 bits of mantissa."""
OLDEST = (1, 28)
"""The first ONNX Runtime with a CUDA kernel for every operator of the exports."""

FOLDED = str(2**20)
"""Bytes of the largest constant that ONNX Runtime may create by constant folding."""
_UNINSTALL = "pip uninstall onnxruntime onnxruntime-gpu"
"""Both packages bring the same files: where there were two, one that is left is broken."""
_SILENT, _DEFAULT = 4, 2
"""Severities from which ONNX Runtime logs: fatal, since errors are raised too; and warnings, its default."""
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
    """An OrtValue of ONNX Runtime, which owns its memory."""

    def __init__(self, value: Any) -> None:
        self.dtype, self.shape = np.dtype(_DTYPES[value.data_type()]), tuple(value.shape())
        self.value = value

    def numpy(self) -> Array:
        """The values; on the CPU without a copy."""
        values: Array = self.value.numpy()
        return values


class OnnxRuntimeRunner(Runner):
    """An ONNX file in ONNX Runtime with one execution provider.

    An unavailable provider is an error; there is no fallback to another one, neither for the model nor for
    single nodes: on a GPU only arithmetic on shapes runs on the CPU. fp32 is fp32, without TF32.

    :meth:`memory` reports the size of the files as weights: a provider may store them in another precision,
    or twice. ONNX Runtime does not report activations.

    Args:
        path: the ONNX file.
        provider: ``cpu`` or ``cuda``.
        threads: CPU threads of one operator; by default one per core that the process may use.
        export: id of the export that the file must belong to; None accepts any.

    Raises:
        UserError: the provider is unknown or ``threads`` is below 1. On entering the ``with`` block: the file
            is missing or is not a model, ONNX Runtime is not installed or too old, it lacks the provider,
            cannot start it, or has no GPU kernel for a node. From :meth:`infer` also: the run failed; it is
            not repeated on the CPU.
    """

    _native = OrtArray

    def __init__(
        self, path: Path, provider: str = "cpu", threads: int | None = None, export: str | None = None
    ) -> None:
        refuse_removed(provider)
        if provider not in PROVIDERS:
            raise UserError(f"provider '{provider}' is unknown, expected one of {', '.join(PROVIDERS)}")
        check_threads(threads)
        super().__init__(str(path), concurrent=provider == "cpu")
        self.path, self.provider, self.threads, self.export = path, provider, threads, export
        self._session: Any = None

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        check_file(self.path)
        session = self._create(require(self.provider)) if self.provider == "cpu" else self._create_on_gpu()
        check_export(self.path, session.get_modelmeta().custom_metadata_map.get(EXPORT), self.export)
        self._session = session
        return _specs(session.get_inputs(), self.path), _specs(session.get_outputs(), self.path)

    def _create_on_gpu(self) -> Any:
        """A session that runs on the GPU: all of it, or UserError."""
        ort = require(self.provider)
        missing = _load_cuda(ort)
        ort.set_default_logger_severity(_SILENT)
        try:
            session = self._create(ort)
        finally:
            ort.set_default_logger_severity(_DEFAULT)
        remedy = f"pip install --upgrade {TABLE[self.provider].install}"
        # If the libraries of a provider do not load, ONNX Runtime starts without it.
        first = session.get_providers()[0]
        if first != PROVIDERS[self.provider]:
            raise UserError(
                f"provider '{self.provider}' could not start and ONNX Runtime chose {first}: "
                f"{missing or 'there is no NVIDIA GPU, or its driver is too old'}; {remedy}"
            )
        model = self._model()
        content = np.memmap(model, np.uint8, "r").data if isinstance(model, Path) else memoryview(model)
        require_gpu(session, content, str(self.path), remedy)
        return session

    def _close(self) -> None:
        self._session = None

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        values = {name: feed.value if isinstance(feed, OrtArray) else feed for name, feed in feeds.items()}
        with self._one_line():
            made = self._opened().run(list(self.outputs), values)
        return dict(zip(self.outputs, made, strict=True))

    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        session = self._opened()
        binding = session.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, OrtArray):
                binding.bind_ortvalue_input(name, feed.value)
            else:
                binding.bind_cpu_input(name, feed)
        for name in self.outputs:
            binding.bind_output(name, TABLE[self.provider].device)
        with self._one_line():
            session.run_with_iobinding(binding)
        return {
            name: OrtArray(value) for name, value in zip(self.outputs, binding.get_outputs(), strict=True)
        }

    def _opened(self) -> Any:
        """The session. A run holds on to it, while another thread may close the runner."""
        session = self._session
        if session is None:
            self._require_open()
        return session

    def _memory(self) -> Memory:
        return Memory(weights=weights(self.path), activations=None)

    def _options(self, ort: ModuleType) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        if self.provider != "cpu":
            options.add_session_config_entry(*RECORD)
        # Two defaults need memory without a gain here. The memory pattern keeps a second arena: for ViT-B
        # 1.9 GB instead of 1.4 at rate 0.55, for 64 prompts 3.7 instead of 1.9, at the same latency. And
        # constant folding would store the results of gathers from small tables: 1.6 GB at rate 0.
        options.enable_mem_pattern = False
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", FOLDED)
        options.intra_op_num_threads = self.threads or _allowed()
        return options

    def _model(self) -> Path | bytes:
        """The model for the session: the file, or its content."""
        return self.path

    def _create(self, ort: ModuleType) -> Any:
        try:
            return ort.InferenceSession(
                self._model(),
                self._options(ort),
                providers=[(PROVIDERS[self.provider], SETTINGS[self.provider])],
                enable_fallback=0,
            )
        except _errors(ort) as error:
            raise UserError(
                f"ONNX Runtime cannot load {self.path} with '{self.provider}': {error}"
            ) from error

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Raise a failure of a run, such as too little memory or a missing library, as UserError."""
        try:
            yield
        except _errors(library()) as error:
            install = f"; pip install --upgrade {TABLE[self.provider].install}"
            advice = install if "cuDNN is unavailable" in str(error) else ""
            raise UserError(
                f"ONNX Runtime failed to run {self.path} with '{self.provider}': {error}{advice}"
            ) from error


def library() -> ModuleType:
    """ONNX Runtime's Python module, imported here and nowhere else.

    It reports no usage: nobody was asked whether they want to. By itself it writes a device id and a database
    of events into the user's cache. A user who wants that sets ORT_DISABLE_TELEMETRY=0.

    Raises:
        UserError: it is not installed, or not whole.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when it is imported
    # Not at the top: someone with a TensorRT engine needs no ONNX Runtime.
    install = f"pip install {TABLE['cpu'].install} (or {TABLE['cuda'].install})"
    try:
        ort = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {install}") from error
    except (ImportError, OSError) as error:
        raise UserError(f"onnxruntime cannot be imported: {error}; {_UNINSTALL}, then {install}") from error
    if not hasattr(ort, "InferenceSession"):  # one of its packages went, with the files of another
        raise UserError(f"onnxruntime is installed in part; {_UNINSTALL}, then {install}")
    return ort


def require(provider: str) -> ModuleType:
    """The Python module of ONNX Runtime, with the provider.

    Raises:
        UserError: it is not installed, lacks the provider, or is too old for it.
    """
    ort = library()
    installed, install = ort.get_available_providers(), TABLE[provider].install
    if PROVIDERS[provider] not in installed:
        offered = ", ".join(name for name, full in PROVIDERS.items() if full in installed)
        raise UserError(
            f"provider '{provider}' is not in this ONNX Runtime, which offers {offered}; "
            f"{_UNINSTALL}, then pip install {install}"
        )
    if provider != "cpu" and tuple(map(int, ort.__version__.split(".")[:2])) < OLDEST:
        raise UserError(
            f"ONNX Runtime {ort.__version__} runs some operators of the exports on the CPU, for want of GPU "
            f"kernels; '{provider}' needs {'.'.join(map(str, OLDEST))} or newer, for Python 3.11 or newer; "
            f"pip install --upgrade {install}"
        )
    return ort


def _load_cuda(ort: ModuleType) -> str:
    """Load CUDA and cuDNN from NVIDIA's packages, where ONNX Runtime does not look by itself.

    Returns:
        What is missing, in one line; empty if nothing is, or if cuDNN alone is, which the first run reports.
    """
    with redirect_stdout(io.StringIO()) as printed:
        ort.preload_dlls()
    lines = printed.getvalue().splitlines()
    return "; ".join(line.partition(": ")[0] for line in lines if line.startswith("Failed"))


def _errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions of a session that cannot start or run; ONNX Runtime has no common base class."""
    state = importlib.import_module(f"{ort.__name__}.capi.onnxruntime_pybind11_state")
    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*kinds, RuntimeError, ValueError, MemoryError)


def _specs(nodes: list[Any], path: Path) -> dict[str, TensorSpec]:
    for node in nodes:
        if node.type not in _DTYPES:  # such as tensor(bfloat16)
            raise UserError(
                f"{path} has {node.name} of type {node.type}, expected {', '.join(_DTYPES)}; export again"
            )
    return {node.name: TensorSpec(np.dtype(_DTYPES[node.type]), _shape(node)) for node in nodes}


def _shape(node: Any) -> tuple[int | str, ...]:
    """The shape with a name for every dynamic axis; an unnamed axis gets a unique name."""
    return tuple(
        axis if isinstance(axis, int | str) else f"{node.name}.{index}"
        for index, axis in enumerate(node.shape)
    )


def _allowed() -> int:
    """Cores that the process is limited to; 0, which is ONNX Runtime's own choice, where it may use all.

    ONNX Runtime starts a thread for every core of the machine. In a container or under ``taskset`` they would
    wait for each other on the few cores that there are.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    allowed = len(os.sched_getaffinity(0))
    return 0 if allowed == os.cpu_count() else allowed
