"""Neither the runtime nor the plugins pull in PyTorch, ONNX or the exporter."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import structsam_plugins
import structsam_runtime

PROGRAM = """
    import importlib, pkgutil, sys

    def modules(name):
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield found.name

    for package in ("structsam_runtime", "structsam_plugins"):
        for name in modules(package):
            importlib.import_module(name)
    heavy = ("torch", "onnx", "onnxruntime", "openvino", "structsam_export", "segment_anything")
    print(*(name for name in heavy if name in sys.modules), sep=",")
    print(*(name for name in sys.modules if name.startswith("structsam_runtime.")), sep=",")
"""


def test_every_module_imports_without_the_export_side() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=True
    )
    heavy, imported = done.stdout.splitlines()
    assert heavy == ""
    assert "structsam_runtime.predict.predictor" in imported.split(",")


def test_no_statement_imports_the_export_side() -> None:
    """Not even inside a function: what needs it is found by name."""
    for package in (structsam_runtime, structsam_plugins):
        for folder in package.__path__:
            for file in Path(folder).rglob("*.py"):
                assert not re.search(r"^\s*(from|import) structsam_export", file.read_text(), re.M), file


def test_the_library_needs_nothing_of_the_program() -> None:
    program = "import structsam_runtime, sys; print({'typer', 'rich'} & sys.modules.keys() or '')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
