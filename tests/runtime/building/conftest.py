"""A stand-in for the builders of TensorRT and TensorRT-RTX, and an export that they build engines of."""

import json
import shutil
import sys
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.manifest import Manifest
from structsam_runtime.progress import Progress
from structsam_runtime.runners import cuda

Shape = tuple[int, ...]


class ILogger:
    """The base class of loggers."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class IProgressMonitor:
    """The base class of those who watch a build; it must be initialised, as the original."""

    ready = False

    def __init__(self) -> None:
        self.ready = True


class NetworkDefinitionCreationFlag(IntEnum):
    """Bits of `create_network`."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(Enum):
    """Switches of a configuration."""

    TF32 = "tf32"
    REFIT = "refit"


class ComputeCapability(IntEnum):
    """GPUs that TensorRT-RTX knows."""

    SM75, SM80, SM86, SM89, SM120 = 75, 80, 86, 89, 120


class ParserError:
    """One error of the parser."""

    def __init__(self, name: str, operator: str, code: str, desc: str) -> None:
        self._told = name, operator, code, desc

    def node(self) -> int:
        return 7

    def node_name(self) -> str:
        return self._told[0]

    def node_operator(self) -> str:
        return self._told[1]

    def code(self) -> Any:
        return SimpleNamespace(name=self._told[2])

    def desc(self) -> str:
        return self._told[3]


class OnnxParser:
    """Takes every file, unless the library has errors for it."""

    def __init__(self, network: "INetworkDefinition", log: Any) -> None:
        self.network, self.errors = network, list[ParserError]()
        network.parser = self

    def parse_from_file(self, path: str) -> bool:
        library = self.network.library
        self.errors = [ParserError(*one) for one in library.parser_errors.get(Path(path).name, [])]
        self.network.graph, self.network.bytes = Path(path).name, Path(path).stat().st_size
        return not self.errors

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


class INetworkDefinition:
    """What a parser fills."""

    def __init__(self, library: "Library", flags: int) -> None:
        self.library, self.flags = library, flags
        self.graph, self.bytes, self.parser = "", 0, None


class IOptimizationProfile:
    """Shapes of inputs."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.shapes[input] = [min, opt, max]


class ITimingCache:
    """Times of kernels: one more for every engine that is built."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class IBuilderConfig:
    """Settings, as a new configuration has them."""

    def __init__(self, library: "Library") -> None:
        self.library, self.flags, self.profiles, self.pools = library, {BuilderFlag.TF32}, [], {}
        self.capabilities: dict[int, Any] = {}
        self.progress_monitor: Any = None
        self.num_compute_capabilities = 0
        self.cache: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = int(capability)
        return True

    def create_timing_cache(self, data: bytes) -> ITimingCache | None:
        if data and not data.startswith(b"times of "):
            self.library.log.log(ILogger.ERROR, "the magic tag does not match")
            return None
        return ITimingCache(data or b"times of this GPU:")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return cache.data.startswith(b"times of this GPU:")

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


class Builder:
    """Builds what says how it was built."""

    def __init__(self, log: Any) -> None:
        self.library: Library = sys.modules["tensorrt"]  # type: ignore[assignment]
        if self.library.does_not_start:
            log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.library.log = log

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(self.library, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.library)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        watch = config.progress_monitor
        assert watch.ready
        watch.phase_start("Building engine", None, self.library.steps)
        watch.phase_start("Timing", "Building engine", 1)
        watch.phase_finish("Timing")
        for step in range(self.library.steps):
            self.library.during(network.graph, step)
            if not watch.step_complete("Building engine", step):
                self.library.cancelled = True
                return None
        watch.phase_finish("Building engine")
        if network.graph in self.library.builder_errors:
            self.library.log.log(ILogger.WARNING, "not of interest")
            self.library.log.log(ILogger.ERROR, self.library.builder_errors[network.graph])
            return None
        if config.cache:
            config.cache.data += network.graph.encode()
        said = {
            "graph": network.graph,
            "bytes": network.bytes,
            "strongly typed": network.flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED,
            "tf32": BuilderFlag.TF32 in config.flags,
            "profiles": config.profiles,
            "workspace": config.pools.get("workspace"),
            "capabilities": list(config.capabilities.values()),
        }
        return memoryview(json.dumps(said).encode())


class Library(ModuleType):
    """`tensorrt` or `tensorrt_rtx`, and what happens to those who use it."""

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    BuilderFlag = BuilderFlag
    ComputeCapability = ComputeCapability
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    Builder = Builder
    OnnxParser = OnnxParser
    __version__ = "10.3.0"

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.parser_errors: dict[str, list[tuple[str, str, str, str]]] = {}
        self.builder_errors: dict[str, str] = {}
        self.does_not_start = self.cancelled = False
        self.steps = 3
        self.during: Callable[[str, int], object] = lambda graph, step: None
        self.plugins: list[str] = []
        self.log: Any = None

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(get_creator=self.creator, load_library=self.load_library)

    def creator(self, name: str, version: str, namespace: str) -> str | None:
        return "a creator" if "plugins" in (Path(path).read_text() for path in self.plugins) else None

    def load_library(self, path: str) -> str | None:
        if Path(path).read_text() == "of another machine":
            return None
        self.plugins.append(path)
        return "a handle"


@pytest.fixture
def stand_in() -> SimpleNamespace:
    """The classes, to be held against the originals."""
    names = ("Builder", "OnnxParser", "ParserError", "IBuilderConfig", "IOptimizationProfile")
    return SimpleNamespace(**{name: globals()[name] for name in (*names, "ITimingCache", "Library")})


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """Both libraries, on a machine with a GPU."""
    made = Library()
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made)
    monkeypatch.setattr(cuda, "gpu", lambda: cuda.Gpu("NVIDIA Test", "9.0"))
    return made


@pytest.fixture
def folder(tmp_path: Path, export_folder: Path) -> Path:
    """An export without engines whose manifest tells the inputs of its graphs."""
    made = Path(shutil.copytree(export_folder, tmp_path / "my out"))
    path = made / "manifest.json"
    said = json.loads(path.read_text())
    for part, specs in (("encoder", encoder_specs), ("decoder", decoder_specs)):
        inputs, _ = specs(Manifest.read(made).model)
        said[part] = {
            "inputs": [
                {"name": name, "dtype": str(spec.dtype), "shape": spec.shape} for name, spec in inputs.items()
            ]
        }
    said["seed"] = 2**70  # more digits than most readers keep
    path.write_text(json.dumps(said))
    return made


@pytest.fixture
def quiet() -> Progress:
    """A progress display whose lines pytest keeps."""
    return Progress()
