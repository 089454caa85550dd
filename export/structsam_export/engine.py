"""TensorRT and TensorRT-RTX engines from ONNX files, through one interface."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polygraphy.config
from polygraphy.backend.base import BaseRunner

from structsam_runtime.errors import UserError

from .choices import Engine

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""For every input with dynamic dimensions: its smallest, usual and largest shape."""

_MODULES = {Engine.TENSORRT: "tensorrt", Engine.TENSORRT_RTX: "tensorrt_rtx"}
_EXTRAS = {Engine.TENSORRT: "gpu", Engine.TENSORRT_RTX: "rtx"}


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one of the two libraries. Both read precision from the ONNX file alone.

    TensorRT measures kernels and needs the GPU that the engine is for. TensorRT-RTX compiles ahead of time
    without one, by default for RTX GPUs from Ampere on, and finishes on the device.

    Args:
        engine: which library.

    Raises:
        UserError: the library is not installed, or there is no GPU and it needs one.
    """

    engine: Engine

    def __post_init__(self) -> None:
        _ = self.version  # imports the library, so that a missing one is told before a missing GPU
        if self.engine is Engine.TENSORRT:
            self.require_gpu()

    def require_gpu(self) -> None:
        """Raises UserError where there is none to build on, or to run on."""
        if not _has_gpu():
            raise UserError(
                f"{self.engine} needs an NVIDIA GPU here, and there is none; use the machine that the engine "
                f"is for, with {_MODULES[self.engine]} {self.version}"
                + (
                    f", or build with --engine {Engine.TENSORRT_RTX}"
                    if self.engine is Engine.TENSORRT
                    else ""
                )
            )

    @property
    def library(self) -> Any:
        """The Python bindings."""
        try:
            return importlib.import_module(_MODULES[self.engine])
        except (ImportError, OSError) as error:
            raise UserError(
                f"--engine {self.engine} needs the library {_MODULES[self.engine]}, which does not import "
                f'here; pip install -e ".[{_EXTRAS[self.engine]}]"'
            ) from error

    @property
    def version(self) -> str:
        """Of the library; an engine runs with the version that built it."""
        return str(self.library.__version__)

    def build(self, onnx_path: Path, engine_path: Path, profile: Profile) -> None:
        """Parse an ONNX file and write its engine.

        Args:
            onnx_path: with its external data beside it, if it has any.
            engine_path: is written.
            profile: shapes of the dynamic inputs; empty if all are static.

        Raises:
            EngineError: the parser or the builder refused; says what it said.
        """
        trt = self.library
        log = _logger(trt)
        builder = trt.Builder(log)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(onnx_path)):
            errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise EngineError(f"{self.engine} cannot parse {onnx_path.name}: {errors}")
        config = builder.create_builder_config()
        if profile:
            shapes = builder.create_optimization_profile()
            for name, (smallest, usual, largest) in profile.items():
                shapes.set_shape(name, smallest, usual, largest)
            config.add_optimization_profile(shapes)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{self.engine} cannot build {onnx_path.name}: {'; '.join(log.errors)}")
        engine_path.write_bytes(plan)

    def runner(self, engine_path: Path) -> BaseRunner:
        """Polygraphy's runner of an engine that this library built.

        Raises:
            UserError: there is no GPU.
        """
        self.require_gpu()
        # Polygraphy chooses its library when this backend is first imported: one of the two per process.
        polygraphy.config.USE_TENSORRT_RTX = self.engine is Engine.TENSORRT_RTX
        from polygraphy.backend.common import BytesFromPath
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        return TrtRunner(EngineFromBytes(BytesFromPath(str(engine_path))))


class EngineError(Exception):
    """A parser or builder refused a graph that passed the lint."""


def _logger(trt: Any) -> Any:
    """A logger that keeps errors and prints nothing; its base class differs between the libraries."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _has_gpu() -> bool:
    """Whether CUDA has a device, asked of PyTorch and of the driver's own files."""
    torch = importlib.import_module("torch")
    return bool(torch.cuda.is_available()) or Path("/dev/nvidia0").exists()
