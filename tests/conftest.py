"""What the tests of both sides share: commands run in this process, and exports of a small SAM."""

import copy
import hashlib
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from filelock import FileLock
from hypothesis import settings
from rich.console import Console
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from structsam_export import pipeline
from structsam_export.choices import Precision
from structsam_export.config import ExportConfig
from structsam_export.encoder.decoder import PromptedMaskDecoder
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_runtime.cli.program import structsam
from structsam_runtime.manifest import Model
from structsam_runtime.progress import Progress

# Examples of a property: few while one works, many where a change is let in. No test has a number of its own.
settings.register_profile("quick", max_examples=8, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of ONNX that GPUs may compute in TF32."""
SCRIPTS = Path(__file__).parents[1] / "scripts"
SAM = Model(
    arch="vit_b",
    image_size=1024,
    embedding=(256, 64, 64),
    low_res=256,
    mask_threshold=0.0,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    precision="fp32",
)

TINY = Architecture(
    embed_dim=64, depth=4, heads=2, global_blocks=(1, 3), file="sam_tiny.pth", sha256="0" * 64
)

Ended = tuple[int | str | None, str, str]
Exported = Callable[..., Path]


@pytest.fixture(scope="session")
def sam() -> Model:
    """The sizes and constants of SAM."""
    return SAM


@pytest.fixture(scope="session")
def tiny_architecture() -> Architecture:
    """SAM's structure at its smallest."""
    return TINY


@pytest.fixture(scope="session")
def tiny() -> Iterator[str]:
    """An architecture like SAM's in everything but its size, known to every command from here on.

    So is "two", which has a block of each kind: what is traced costs half.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", TINY)
        patch.setitem(ARCHITECTURES, "two", replace(TINY, depth=2, global_blocks=(1,)))
        yield "tiny"


@pytest.fixture(scope="session")
def quiet() -> Progress:
    """A progress display that nobody sees."""
    return Progress(Console(quiet=True))


def _version() -> str:
    """Hash of all that an export depends on: the sources, this file, and the libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for folder in ("export", "runtime", "plugins"):
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for library in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> Path:
    """Where exports and decoders are kept, in pytest's cache, until a source file or a library changes.

    What an earlier version left goes after an hour: a run that began before a change may still read it.
    """
    folder: Path = request.config.cache.mkdir("exports") / _version()
    folder.mkdir(exist_ok=True)
    folder.touch()
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # every process of the run looks
            if other.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(other, ignore_errors=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def kept_decoders(store: Path) -> Iterator[None]:
    """Every export reads a decoder that an export has traced before, of the same weights and settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "traced", _keeping_decoders(store))
        yield


def _keeping_decoders(store: Path) -> Callable[..., onnx.ModelProto]:
    """`pipeline.traced`, which reads a decoder that it has traced before."""
    trace = pipeline.traced

    def traced(
        config: ExportConfig,
        module: nn.Module,
        inputs: Any,
        dynamic: Any,
        outputs: Any,
        precision: Precision | None = None,
    ) -> onnx.ModelProto:
        how = (config, module, inputs, dynamic, outputs, precision)
        if not isinstance(module, PromptedMaskDecoder):
            return trace(*how)
        shapes = {name: value.shape for name, value in inputs.items()}
        around = (precision or config.precision).around
        settings = (config.family, config.image_size, around, config.dialect.opset, shapes, dynamic, outputs)
        digest = hashlib.sha256(repr((module, settings)).encode())
        for weight in module.state_dict().values():
            digest.update(weight.numpy().tobytes())
        path = store / f"decoder-{digest.hexdigest()[:16]}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                onnx.save(trace(*how), whole := path.with_suffix(".part"))
                whole.rename(path)
        return onnx.load(path)

    return traced


@pytest.fixture(scope="session", autouse=True)
def kept_translations() -> Iterator[None]:
    """PyTorch's exporter makes its table of translations once, not for every graph: a third of a second."""
    make = cache(ONNXRegistry.from_torchlib)

    def copied(opset_version: int) -> ONNXRegistry:
        table = copy.copy(make(opset_version))
        table.functions = {name: list(known) for name, known in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))
        yield


@pytest.fixture(scope="session")
def exported(store: Path, tiny: str, quiet: Progress) -> Exported:
    """Exports a SAM of two blocks at 320 pixels: `exported(**arguments of ExportConfig.of)` gives the folder.

    The same arguments give the same folder, which tests only read, for all workers and for later runs.
    """

    def export(**changes: Any) -> Path:
        config = ExportConfig.of(**{"arch": "two", "random_weights": True, "image_size": 320} | changes)
        arguments = json.dumps(config.as_json(), sort_keys=True)
        folder = store / hashlib.sha256(arguments.encode()).hexdigest()[:16] / config.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / "lock"):
            if not folder.exists():
                pipeline.export(config, folder, None, False, quiet)
        return folder

    return export


@pytest.fixture
def run_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Ended]:
    """Runs a script by its name without .py on a line of arguments: exit code, stdout, stderr."""

    def call(name: str, line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *line.split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], Ended]:
    """Runs a command of `structsam` in this process on a line of arguments: exit code, stdout, stderr."""

    def call(name: str, line: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            structsam([name, *line.split()])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def in_tf32() -> Callable[[Path], None]:
    """Changes an ONNX file so that it computes as a GPU does with TF32: products of fp32 round their inputs.

    Eleven bits are left of 24, split off as Veltkamp does it: with c = (2^13 + 1) x, that is c - (c - x).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def change(path: Path) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        graph = model.graph
        values = [*graph.value_info, *graph.input, *graph.output]
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {constant.name: constant.data_type for constant in graph.initializer}
        nodes, rounded = [], {}
        for node in graph.node:
            for index, name in enumerate(node.input[:2]):
                if node.op_type not in PRODUCTS or types.get(name) != TensorProto.FLOAT:
                    continue
                if name not in rounded:
                    rounded[name] = f"{name}/tf32"
                    nodes += [
                        helper.make_node("Mul", [name, "/split"], [f"{name}/c"]),
                        helper.make_node("Sub", [f"{name}/c", name], [f"{name}/d"]),
                        helper.make_node("Sub", [f"{name}/c", f"{name}/d"], [rounded[name]]),
                    ]
                node.input[index] = rounded[name]
            nodes.append(node)
        assert rounded
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.append(numpy_helper.from_array(np.array(2**13 + 1, np.float32), "/split"))
        onnx.save(model, path)

    return change


@pytest.fixture(scope="session")
def sign_again() -> Callable[[Path], None]:
    """Makes the manifest of an export say of its files what they are now."""

    def sign(folder: Path) -> None:
        path = folder / "manifest.json"
        said = json.loads(path.read_text())
        for name in said["files"]:
            content = (folder / name).read_bytes()
            said["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        path.write_text(json.dumps(said))

    return sign


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The commands of the documents take longest and run one after another: they start first."""
    items.sort(key=lambda item: item.get_closest_marker("readme") is None)
