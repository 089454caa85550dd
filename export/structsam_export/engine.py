"""Build TensorRT and TensorRT-RTX engines from ONNX files."""

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
"""For every input with dynamic dimensions: its smallest, optimal and largest shape."""


@dataclass(frozen=True)
class Hardware:
    """The GPUs that an engine runs on.

    Attributes:
        gpu: name of the only GPU model; None for all GPUs with one of the capabilities.
        capabilities: compute capabilities, such as 8.6.
    """

    gpu: str | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one of the two libraries. Both take the precision from the ONNX file.

    TensorRT times kernels and needs the GPU that will run the engine. TensorRT-RTX compiles ahead of time
    without a GPU, for all supported RTX GPUs from Ampere on, and finishes the compilation on the device.

    Args:
        engine: the library.
        plugins: a library of plugins that graphs may need.

    Raises:
        UserError: the library is not installed, there is no GPU and it needs one, or plugins do not load.
    """

    engine: Engine
    plugins: Path | None = None

    def __post_init__(self) -> None:
        _ = self.version  # imports the library, so that a missing library is reported before a missing GPU
        if self.engine is Engine.TENSORRT:
            self.require_gpu()
        if self.plugins:
            load_plugins(self.library, self.plugins)

    def require(self, oldest: str) -> None:
        """Check the version of TensorRT.

        Args:
            oldest: the oldest version that reads the graphs, such as 10.14.

        Raises:
            UserError: the installed TensorRT is older.
        """
        here, needed = (tuple(map(int, text.split(".")[:2])) for text in (self.version, oldest))
        if self.engine is Engine.TENSORRT and here < needed:
            raise UserError(
                f"the graph needs TensorRT {oldest}, installed is {self.version}; give --target tensorrt10"
            )

    def require_gpu(self) -> None:
        """Check that there is a GPU.

        Raises:
            UserError: there is none.
        """
        try:
            cuda.gpu()
        except UserError as error:
            told = f"{self.engine} builds on the GPU that runs the engine, with version {self.version} there"
            if self.engine is Engine.TENSORRT:
                told += f", or build with --engine {Engine.TENSORRT_RTX}"
            raise UserError(f"{told}: {error}") from error

    @property
    def library(self) -> Any:
        """The Python bindings of the library."""
        return bindings(self.engine)

    @property
    def version(self) -> str:
        """Version of the library; an engine runs only with the version that built it."""
        return str(self.library.__version__)

    @property
    def hardware(self) -> Hardware:
        """The GPUs that the engines run on: the local one, or all that TensorRT-RTX builds for."""
        if self.engine is Engine.TENSORRT:
            here = cuda.gpu()
            return Hardware(here.name, (here.capability,))
        numbers = (divmod(int(capability), 10) for capability in self._ampere_on())
        return Hardware(None, tuple(f"{major}.{minor}" for major, minor in numbers))

    def _ampere_on(self) -> list[Any]:
        """Compute capabilities of one TensorRT-RTX engine: Ampere and newer. Turing needs its own engine."""
        known = self.library.ComputeCapability.__members__.values()
        return sorted((capability for capability in known if int(capability) >= 80), key=int)

    def build(self, onnx_path: Path, engine_path: Path, profile: Profile) -> None:
        """Parse an ONNX file and write its engine.

        Args:
            onnx_path: the graph, with its external data beside it if it has any.
            engine_path: the file to write.
            profile: shapes of the dynamic inputs; empty if all are static.

        Raises:
            BuildError: the parser or the builder failed; with the library's message.
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
        if self.engine is Engine.TENSORRT_RTX:  # set explicitly, so that `hardware` is exact in every version
            capabilities = self._ampere_on()
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                config.set_compute_capability(capability, index)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{self.engine} cannot build {onnx_path.name}: {log.told()}")
        engine_path.write_bytes(plan)


class BuildError(Exception):
    """The parser or the builder failed on a graph without lint errors."""
