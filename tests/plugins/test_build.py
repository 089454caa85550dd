"""The device code compiles, by itself and as plugins/README.md says."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import tomllib

from structsam_plugins import KernelError, Kernels
from structsam_plugins.build import SOURCES, build

from .conftest import compiler

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_sources() -> None:
    """They lie in a package of the wheel, which takes all of it but what git ignores."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = SOURCES.parent
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel.keys() == {"packages"}
    assert package.relative_to(ROOT).as_posix() in wheel["packages"]
    named = re.findall(r"csrc/[\w/]+\.(?:cpp|cu)", (package / "CMakeLists.txt").read_text())
    files = [package / name for name in named] + [*SOURCES.rglob("*.h")]
    assert len(files) > 10
    assert all(file.is_file() for file in files)
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, check=False)
    assert ignored.stdout == b""


def test_nvcc_compiles_the_kernels_without_a_warning(cuda_library: Path) -> None:
    assert Kernels(cuda_library)


@pytest.mark.parametrize(("device", "said"), [("cuda", "need nvcc"), ("cpu", r"need g\+\+")])
def test_a_compiler_that_is_missing_is_named(
    device: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match=said):
        build(device, tmp_path)


@pytest.mark.engine
def test_cmake_builds_what_the_tools_allow(tmp_path: Path) -> None:
    """Always the library for the CPU; with nvcc the kernels, with TensorRT's headers the plugins too."""
    cmake, _, root = compiler("cmake"), compiler("g++"), os.environ.get("TENSORRT_ROOT")
    options = ["-DCMAKE_CUDA_ARCHITECTURES=90", *([f"-DTENSORRT_ROOT={root}"] if root else [])]
    told = run(cmake, "-S", str(SOURCES.parent), "-B", str(tmp_path), *options)
    run(cmake, "--build", str(tmp_path))
    built = {path.stem for path in tmp_path.glob("*.so")}
    assert "libstructsam_host" in built
    assert ("libstructsam_kernels" in built) != ("nvcc not found" in told)
    if "libstructsam_kernels" in built:
        assert ("libstructsam_tensorrt" in built) != ("NvInfer.h not found" in told)


@pytest.mark.engine
def test_cmake_compiles_for_every_gpu_that_exports_are_for(tmp_path: Path) -> None:
    """A Jetson Orin, 8.7, among them; and for later ones, by the driver, what is there for 9.0."""
    cmake, _, _ = compiler("cmake"), compiler("g++"), compiler("nvcc")
    run(cmake, "-S", str(SOURCES.parent), "-B", str(tmp_path), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    (kernels,) = {one["command"] for one in commands if "structsam_kernels" in one["command"]}
    assert set(re.findall(r"sm_(\d+)", kernels)) == {"75", "80", "86", "87", "89", "90"}
    assert "code=[compute_90,sm_90]" in kernels


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
