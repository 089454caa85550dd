"""From ONNX to an engine, with TensorRT or TensorRT-RTX alone."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import check_output, whole_file
from .progress import Phases
from .runners import cuda
from .runners.tensorrt import LIBRARIES, bindings, load_plugins, logger

TENSORRT, TENSORRT_RTX = LIBRARIES
AMPERE, ADA = 80, 89
"""Compute capabilities, times ten."""

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""For every input with dynamic dimensions: its smallest, optimal and largest shape."""


class BuildError(Exception):
    """The parser or the builder of a library failed."""


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
    """Builds engines with one of the two libraries. Both take the precision from the ONNX file; TF32 is off.

    TensorRT times kernels and needs the GPU that will run the engine. TensorRT-RTX compiles ahead of time
    without a GPU, for all supported RTX GPUs from Ampere on, or from Ada on for fp8, and finishes the
    compilation on the device.

    Args:
        library: ``tensorrt`` or ``tensorrt-rtx``.
        plugins: a library of plugins that graphs may need; only TensorRT takes one.
        workspace: GPU memory in MiB that a layer of the engine may use; None for all there is.
        timing_cache: a file that keeps times of kernels for later builds; only TensorRT takes them. It is
            made where there is none.
        precision: of the export.

    Raises:
        UserError: the library is unknown or not installed, there is no GPU and it needs one, plugins do not
            load, or it does not take what was given.
    """

    library: str
    plugins: Path | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise UserError(f"--engine {self.library} is unknown; expected {' or '.join(LIBRARIES)}")
        if self.library == TENSORRT_RTX:
            self._refuse("--plugins", self.plugins, "supports no plugins")
            self._refuse("--timing-cache", self.timing_cache, "times no kernels when it builds")
        _ = self.version  # imports the library, so that a missing library is reported before a missing GPU
        if self.library == TENSORRT:
            self.require_gpu()
        if self.timing_cache:
            check_output(self.timing_cache)
        if self.plugins:
            load_plugins(self.trt, self.plugins)

    def _refuse(self, option: str, value: object, why: str) -> None:
        if value is not None:
            raise UserError(
                f"{option} needs --engine {TENSORRT}: {self.library} {why}; leave one of them out"
            )

    def require(self, oldest: str) -> None:
        """Check the version of TensorRT.

        Args:
            oldest: the oldest version that reads the graphs, such as 10.14.

        Raises:
            UserError: the installed TensorRT is older.
        """
        both = (self.version, oldest)
        here, needed = ([int(part) for part in re.findall(r"\d+", text)[:2]] for text in both)
        if self.library == TENSORRT and here < needed:
            # No graph of bf16 is for older ones.
            remedy = "in another precision" if self.precision == "bf16" else "with --target tensorrt10"
            raise UserError(
                f"the graph needs TensorRT {oldest}, installed is {self.version}; export {remedy}"
            )

    def require_gpu(self) -> None:
        """Check that there is a GPU.

        Raises:
            UserError: there is none.
        """
        try:
            cuda.gpu()
        except UserError as error:
            told = f"{self.library} builds on the GPU that runs the engine, with version {self.version} there"
            if self.library == TENSORRT:
                told += f", or build with --engine {TENSORRT_RTX}"
            raise UserError(f"{told}: {error}") from error

    @property
    def trt(self) -> Any:
        """The Python bindings of the library."""
        return bindings(self.library)

    @property
    def version(self) -> str:
        """Version of the library; an engine runs only with the version that built it."""
        return str(self.trt.__version__)

    @property
    def hardware(self) -> Hardware:
        """The GPUs that the engines run on: the local one, or all that TensorRT-RTX builds for."""
        if self.library == TENSORRT:
            here = cuda.gpu()
            return Hardware(here.name, (here.capability,))
        numbers = (divmod(int(capability), 10) for capability in self._capabilities())
        return Hardware(None, tuple(f"{major}.{minor}" for major, minor in numbers))

    def _capabilities(self) -> list[Any]:
        """Compute capabilities of one TensorRT-RTX engine: Ampere and newer. Turing needs its own engine.

        It builds nothing at all if one of them lacks a type of the graph, as GPUs before Ada lack fp8.
        """
        oldest = ADA if self.precision.startswith("fp8") else AMPERE
        known = self.trt.ComputeCapability.__members__.values()
        return sorted((capability for capability in known if int(capability) >= oldest), key=int)

    def build(
        self, onnx_path: Path, engine_path: Path, profile: Profile, phases: Phases | None = None
    ) -> None:
        """Parse an ONNX file and write its engine.

        Args:
            onnx_path: the graph, with its external data beside it if it has any.
            engine_path: the file to write.
            profile: shapes of the dynamic inputs; empty if all are static.
            phases: are told how far it is.

        Raises:
            BuildError: the parser or the builder failed; with the library's message.
            UserError: the timing cache does not fit, or cannot be read or written.
            OSError: the engine cannot be written.
        """
        trt = self.trt
        log = logger(trt)
        builder = self._builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)  # holds the weights until the engine is built
        if not parser.parse_from_file(str(onnx_path)):
            errors = [_told(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BuildError(f"{self.library} cannot parse {onnx_path.name}: {'; '.join(errors)}")
        config = self._config(builder, profile)
        times = self._read_times(config, log)
        watch = _watch(trt, phases)
        config.progress_monitor = watch
        plan = self._run(builder, network, config, watch)
        if plan is None:
            raise BuildError(f"{self.library} cannot build {onnx_path.name}: {self._reason(log.told())}")
        engine_path.write_bytes(plan)
        if self.timing_cache and times is not None:
            with whole_file(self.timing_cache) as part:
                part.write_bytes(config.get_timing_cache().serialize())

    def _builder(self, log: Any) -> Any:
        try:
            return self.trt.Builder(log)
        except TypeError as error:  # how the bindings say that the library made none
            raise UserError(
                f"{self.library} {self.version} does not start here; it may need a newer driver: {log.told()}"
            ) from error

    def _config(self, builder: Any, profile: Profile) -> Any:
        """All settings but the timing cache and who watches."""
        trt, config = self.trt, builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and rounds fp32 to 10 bits
        if profile:
            shapes = builder.create_optimization_profile()
            for name, (smallest, usual, largest) in profile.items():
                shapes.set_shape(name, smallest, usual, largest)
            config.add_optimization_profile(shapes)
        if self.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace << 20)
        if self.library == TENSORRT_RTX:  # set explicitly, so that `hardware` is exact in every version
            capabilities = self._capabilities()
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                config.set_compute_capability(capability, index)
        return config

    def _read_times(self, config: Any, log: Any) -> Any:
        """The timing cache, which must live until the engine is built; None where none is asked for."""
        if self.timing_cache is None:
            return None
        try:
            known = self.timing_cache.read_bytes() if self.timing_cache.exists() else b""
        except OSError as error:
            raise UserError(f"--timing-cache {self.timing_cache} cannot be read: {error.strerror}") from error
        times = config.create_timing_cache(known)
        if times is None or not config.set_timing_cache(times, False):  # times of another GPU are no times
            raise UserError(
                f"--timing-cache {self.timing_cache} is not of this GPU and {self.library} {self.version}; "
                f"choose another file: {log.told()}"
            )
        return times

    def _run(self, builder: Any, network: Any, config: Any, watch: Any) -> Any:
        """Build, in a thread of its own: the library does not answer Ctrl-C, and this thread does."""
        with ThreadPoolExecutor(1) as thread:
            try:
                return thread.submit(builder.build_serialized_network, network, config).result()
            except MemoryError as error:
                raise BuildError(f"{self.library} has not enough memory to build") from error
            except BaseException:
                watch.stopped = True
                raise

    def _reason(self, told: str) -> str:
        """Why the builder failed, and what to do where memory was too small."""
        if not re.search("memory|workspace", told, re.IGNORECASE):
            return told or "it gives no reason"
        given = f"give more --workspace than {self.workspace} MiB, " if self.workspace else ""
        return f"{told}; {given}end other programs on the GPU, or give a smaller --max-prompts"


def _told(error: Any) -> str:
    """What a parser says of one error: node, operator, kind, and what failed."""
    name, operator = error.node_name(), error.node_operator()
    where = f"node {name or error.node()} ({operator}): " if operator else ""
    return f"{where}{error.code().name}: {error.desc()}"


def _watch(trt: Any, phases: Phases | None) -> Any:
    """Passes on how far a build is, and ends it early; its base class differs between the libraries."""

    class Watch(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if phases:
                phases.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phases:
                phases.advance(phase, step + 1)
            return not self.stopped

        def phase_finish(self, phase: str) -> None:
            if phases:
                phases.finish(phase)

    return Watch()
