"""What the tests of both sides share."""

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from structsam_runtime.cli.program import structsam
from structsam_runtime.manifest import Model

# Examples of a property: few while one works, many where a change is let in. No test has a number of its own.
settings.register_profile("quick", max_examples=8, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

# A core for each process that runs tests: threads of several processes on the same cores wait for each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})

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

Ended = tuple[int | str | None, str, str]


@pytest.fixture(scope="session")
def sam() -> Model:
    """The sizes and constants of SAM."""
    return SAM


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
