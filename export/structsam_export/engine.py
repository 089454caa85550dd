"""TensorRT and TensorRT-RTX engines from ONNX files, through one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structsam_runtime.errors import UserError
from structsam_runtime.runners import cuda
from structsam_runtime.runners.tensorrt import bindings, load_plugins, logger

from .choices import Engine

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""For every input with dynamic dimensions: its smallest, usual and largest shape."""


@dataclass(frozen=True)
class Hardware:
    """What GPUs an engine is for.

    Attributes:
        gpu: the only one, by name; None for all of the right capability.
        capabilities: compute capabilities, as 8.6.
    """

    gpu: str | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one of the two libraries. Both read precision from the ONNX file alone.

    TensorRT measures kernels and needs the GPU that the engine is for. TensorRT-RTX compiles ahead of time
    without one, for every RTX GPU from Ampere on that it knows, and finishes on the device.

    Args:
        engine: which library.
        plugins: a library of plugins that graphs may need.

    Raises:
        UserError: the library is not installed, there is no GPU and it needs one, or plugins do not load.
    """

    engine: Engine
    plugins: Path | None = None

    def __post_init__(self) -> None:
        _ = self.version  # imports the library, so that a missing one is told before a missing GPU
        if self.engine is Engine.TENSORRT:
            self.require_gpu()
        if self.plugins:
            load_plugins(self.library, self.plugins)

    def require(self, oldest: str) -> None:
        """Raises UserError where the library is a TensorRT that is older than graphs need."""
        here, needed = (tuple(map(int, text.split(".")[:2])) for text in (self.version, oldest))
        if self.engine is Engine.TENSORRT and here < needed:
            raise UserError(
                f"the graph needs TensorRT {oldest}, here is {self.version}; give --target tensorrt10"
            )

    def require_gpu(self) -> None:
        """Raises UserError where there is none to build on, or to run on."""
        try:
            cuda.gpu()
        except UserError as error:
            told = f"{self.engine} needs the GPU that the engine is for, and {self.version} there"
            if self.engine is Engine.TENSORRT:
                told += f", or build with --engine {Engine.TENSORRT_RTX}"
            raise UserError(f"{told}: {error}") from error

    @property
    def library(self) -> Any:
        """The Python bindings."""
        return bindings(self.engine)

    @property
    def version(self) -> str:
        """Of the library; an engine runs with the version that built it."""
        return str(self.library.__version__)

    @property
    def hardware(self) -> Hardware:
        """What GPUs the engines are for: the one that is here, or all that TensorRT-RTX builds for."""
        if self.engine is Engine.TENSORRT:
            here = cuda.gpu()
            return Hardware(here.name, (here.capability,))
        numbers = (divmod(int(capability), 10) for capability in self._ampere_on())
        return Hardware(None, tuple(f"{major}.{minor}" for major, minor in numbers))

    def _ampere_on(self) -> list[Any]:
        """Capabilities that TensorRT-RTX can build for together; Turing only by itself, at a price."""
        known = self.library.ComputeCapability.__members__.values()
        return sorted((capability for capability in known if int(capability) >= 80), key=int)

    def build(self, onnx_path: Path, engine_path: Path, profile: Profile) -> None:
        """Parse an ONNX file and write its engine.

        Args:
            onnx_path: with its external data beside it, if it has any.
            engine_path: is written.
            profile: shapes of the dynamic inputs; empty if all are static.

        Raises:
            BuildError: the parser or the builder refused; says what it said.
        """
        trt = self.library
        log = logger(trt)
        builder = trt.Builder(log)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(onnx_path)):
            errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise BuildError(f"{self.engine} cannot parse {onnx_path.name}: {errors}")
        config = builder.create_builder_config()
        if profile:
            shapes = builder.create_optimization_profile()
            for name, (smallest, usual, largest) in profile.items():
                shapes.set_shape(name, smallest, usual, largest)
            config.add_optimization_profile(shapes)
        if self.engine is Engine.TENSORRT_RTX:  # or `hardware` would tell its default, whatever that becomes
            capabilities = self._ampere_on()
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                config.set_compute_capability(capability, index)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{self.engine} cannot build {onnx_path.name}: {log.told()}")
        engine_path.write_bytes(plan)


class BuildError(Exception):
    """A parser or builder refused a graph that passed the lint."""
