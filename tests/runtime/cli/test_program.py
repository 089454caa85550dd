"""The program `structsam`: it finds commands, describes them without importing them, and starts one."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from structsam_runtime import __version__, cli
from structsam_runtime.cli.program import commands, structsam

NAMES = [
    "batch",
    "benchmark",
    "build",
    "check",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "macs",
    "predict",
    "spectral",
    "tune",
    "visualize",
]
GREET = '''"""Greet somebody.

structsam greet WORLD
"""

import {needed}

VALUES = {{"--at": 2}}


def main(name: str, at: str = "") -> None:
    """Say hello."""
    print("hello", name, at)


def helper() -> None: ...
'''

Ended = tuple[int | str | None, str, str]
Program = Callable[..., Ended]


@pytest.fixture
def run_program(capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs `structsam` in this process: exit code, stdout, stderr."""

    def call(*args: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            structsam(args)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules belong to the package of commands."""
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "tools.py").write_text('"""Shared by commands, none itself."""\n\ndef run() -> None: ...\n')
    return tmp_path


def greet(folder: Path, monkeypatch: pytest.MonkeyPatch, needed: str = "math") -> None:
    """Adds a command: its file, and nothing else."""
    name = "structsam_runtime.cli.greet"
    (folder / "greet.py").write_text(GREET.format(needed=needed))
    monkeypatch.setitem(sys.modules, name, None)  # so that it is gone again after the test
    monkeypatch.delitem(sys.modules, name)


def test_every_command_is_there_with_one_line() -> None:
    found = commands()
    assert list(found) == NAMES
    for name, command in found.items():
        assert command.module in (f"structsam_runtime.cli.{name}", f"structsam_export.cli.{name}")
        assert command.summary.endswith(".")


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_help_lists_every_command(run_program: Program, args: tuple[str, ...]) -> None:
    code, out, err = run_program(*args)
    assert (code, err) == (0, "")
    assert "Usage: structsam [OPTIONS] COMMAND" in out
    for name, command in commands().items():
        assert name in out
        assert command.summary.split()[0] in out


def test_help_imports_no_command_and_nothing_heavy() -> None:
    told = """
import sys
from structsam_runtime.cli.program import structsam
try:
    structsam(["--help"])
except SystemExit:
    heavy = ("torch", "onnx", "onnxruntime", "structsam_export.config", "structsam_runtime.cli.predict")
    assert not {*heavy} & sys.modules.keys()
    assert not [name for name in sys.modules if name.startswith("structsam_export.cli.")]
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(run_program: Program) -> None:
    assert run_program("--version") == (0, f"structsam {__version__}\n", "")


def test_an_unknown_command_names_those_that_exist(run_program: Program) -> None:
    told = f"error: no command 'nonsense'; expected one of {', '.join(NAMES)}\n"
    assert run_program("nonsense", "--help") == (2, "", told)
    code, out, err = run_program("--nonsense")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_command_has_the_program_in_its_usage(run_program: Program) -> None:
    code, out, _ = run_program("predict", "--help")
    assert code == 0
    assert "Usage: structsam predict [OPTIONS]" in out


def test_a_command_is_one_file(run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greet(folder, monkeypatch)
    assert sorted(commands()) == sorted([*NAMES, "greet"])
    assert "Greet somebody." in run_program()[1]
    assert run_program("greet", "you") == (0, "hello you \n", "")
    assert run_program("greet", "you", "--at", "3", "4") == (0, "hello you 3,4\n", "")
    assert run_program("greet")[0] == 2


@pytest.mark.parametrize(("package", "extra"), [("torch", "export,cpu"), ("matplotlib", "evaluate")])
def test_a_command_without_its_packages_says_what_to_install(
    run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    greet(folder, monkeypatch, package)
    monkeypatch.setitem(sys.modules, package, None)
    told = f'error: structsam greet needs {package}; pip install "structsam[{extra}]"\n'
    assert run_program("greet", "you") == (2, "", told)
    assert "greet" in run_program("--help")[1]


def test_a_package_that_is_missing_when_it_is_needed_is_told_too(
    run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = GREET.replace('print("hello", name, at)', "import torch").format(needed="math")
    greet(folder, monkeypatch)
    (folder / "greet.py").write_text(source)
    monkeypatch.setitem(sys.modules, "torch", None)
    told = 'error: structsam greet needs torch; pip install "structsam[export,cpu]"\n'
    assert run_program("greet", "you") == (2, "", told)


def test_a_module_of_our_own_that_is_missing_is_a_defect(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greet(folder, monkeypatch, "structsam_runtime.gone")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        structsam(["greet", "you"])


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "structsam_runtime", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"structsam {__version__}\n", "")


def test_names_that_no_encoding_has_are_printed(
    run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greet(folder, monkeypatch)
    assert run_program("greet", "gr\udcfc\udcdfe") == (0, r"hello gr\udcfc\udcdfe " + "\n", "")


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back how this process takes signals."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("where", ["import os", 'print("hello", name, at)'])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_interruptions_while_a_command_runs_or_is_imported(
    run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    greet(folder, monkeypatch)
    source = GREET.format(needed="os").replace(where, f"import os; os.kill(os.getpid(), {number})")
    (folder / "greet.py").write_text(source)
    assert run_program("greet", "you") == (130, "", "interrupted\n")


@pytest.mark.usefixtures("signals")
def test_a_program_after_nohup_outlives_its_terminal(
    run_program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greet(folder, monkeypatch)
    source = GREET.format(needed="os").replace("import os", "import os; os.kill(os.getpid(), 1)")
    (folder / "greet.py").write_text(source)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run_program("greet", "you") == (0, "hello you \n", "")
