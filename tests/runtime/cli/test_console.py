"""Exit codes and one-line errors of every command-line script, and outputs that appear whole."""

import importlib.metadata
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.cli.console import EXTRAS, join_values, missing, numbers, run
from structsam_runtime.errors import Caution, UserError
from structsam_runtime.files import check_output, whole_file


def command(count: int, how: Annotated[str, typer.Option()] = "well") -> int | None:
    """A command that ends in every way."""
    if how == "mistake":
        raise UserError(f"count is {count},\n  expected less")
    if how == "exit":
        raise typer.Exit(3)
    if how == "refused":
        raise typer.BadParameter("refused")
    if how == "ctrl-c":
        raise KeyboardInterrupt
    if how == "abort":
        raise typer.Abort
    if how == "defect":
        raise ZeroDivisionError
    if how == "careful":
        warnings.warn("look twice", Caution, stacklevel=1)
        warnings.warn("of a library", stacklevel=1)
    print(f"counted {count}")
    return None


def _run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(command, args)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("args", "code", "stderr"),
    [
        (["4"], 0, ""),
        (["4", "--how", "mistake"], 2, "error: count is 4, expected less\n"),
        (["4", "--how", "exit"], 3, ""),
        (["4", "--how", "refused"], 2, "error: Invalid value: refused\n"),
        (["4", "--how", "ctrl-c"], 130, "interrupted\n"),
        (["4", "--how", "abort"], 130, "interrupted\n"),
    ],
)
def test_ends(args: list[str], code: int, stderr: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, *args) == (code, "counted 4\n" if code == 0 else "", stderr)


@pytest.mark.filterwarnings("default")
def test_a_caution_is_one_line_and_other_warnings_are_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    shown = warnings.showwarning
    with pytest.warns(UserWarning, match="of a library"):
        assert _run(capsys, "4", "--how", "careful") == (0, "counted 4\n", "warning: look twice\n")
    assert warnings.showwarning is shown


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ([], "Missing argument"),
        (["four"], "valid integer"),
        (["4", "--how"], "--how"),
        (["4", "--what", "5"], "--what"),
        (["4", "5"], "5"),
    ],
)
def test_usage_errors_are_one_line(args: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "--help")
    assert (code, err) == (0, "")
    assert "A command that ends in every way" in out


def test_an_application_with_commands(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    app.command("count")(command)
    app.command("other")(command)
    with pytest.raises(SystemExit) as ended:
        run(app, ["count", "4", "--how", "exit"])
    assert ended.value.code == 3
    with pytest.raises(SystemExit) as ended:
        run(app, ["cuont", "4"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: No such command 'cuont'")
    with pytest.raises(SystemExit) as ended:
        run(app, [])
    assert ended.value.code in (0, 2)  # 0 with typer on click before 8.2
    assert capsys.readouterr().err == ""  # the help was the answer


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(command, ["4", "--how", "defect"])


@pytest.mark.parametrize(
    ("package", "extra"),
    [("torch", "export,cpu"), ("polygraphy.backend", "export,cpu"), ("ray", "cluster")]
    + [(name, "evaluate") for name in ("scipy", "matplotlib", "pydicom")],
)
def test_a_missing_package_says_which_extra_brings_it(
    package: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        missing(ModuleNotFoundError(f"No module named '{package}'", name=package), "structsam evaluate")
    assert ended.value.code == 2
    told = f'error: structsam evaluate needs {package.split(".")[0]}; pip install "structsam[{extra}]"\n'
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("package", ["structsam_export.cli.gone", "numpy.gone", None])
def test_a_module_that_no_extra_brings_is_a_defect(package: str | None) -> None:
    with pytest.raises(ModuleNotFoundError, match="gone"):
        missing(ModuleNotFoundError("gone", name=package))


def test_the_extras_are_those_of_the_project() -> None:
    wanted = importlib.metadata.requires("structsam") or []
    imported = {"scikit-image": "skimage"}
    for extras, packages in EXTRAS.items():
        endings = tuple(f'extra == "{extra}"' for extra in extras.split(","))
        names = [re.split(r"[^\w-]", one)[0] for one in wanted if one.replace("'", '"').endswith(endings)]
        assert {imported.get(name, name.replace("-", "_")) for name in names} == set(packages)


def test_arguments_default_to_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "4", "--how", "exit"])
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert ended.value.code == 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("out --box 1 2 3 4 -o x.png", "out --box=1,2,3,4 -o x.png"),
        ("--box 1 2 3 4 --box 5 6 7 8", "--box=1,2,3,4 --box=5,6,7,8"),
        ("--box 1,2,3,4 5", "--box=1,2,3,4 5"),
        ("--box=1,2,3,4", "--box=1,2,3,4"),
        ("--point -3 .5 7", "--point=-3,.5 7"),
        ("--point nan inf", "--point=nan,inf"),
        ("--point 3 photo.jpg", "--point=3 photo.jpg"),
        ("--point", "--point"),
        ("--point --box 1 2", "--point --box=1,2"),
    ],
)
def test_join_values(line: str, expected: str) -> None:
    assert join_values(line.split(), {"--box": 4, "--point": 2}) == expected.split()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_numbers_read_what_was_joined(values: list[float]) -> None:
    joined = join_values(["--point", *map(str, values)], {"--point": 2})
    assert len(joined) == 1
    assert numbers("--point", joined[0].removeprefix("--point="), ("X", "Y")) == values


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,b", "", "1,,2"])
def test_numbers_refuses(text: str) -> None:
    with pytest.raises(UserError, match=r"--point got '.*', expected 2 numbers: X Y"):
        numbers("--point", text, ("X", "Y"))


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with whole_file(path) as part:
        assert part.suffix == ".png"
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_text("old")

    def write(error: Exception) -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(UserError, match=r"cannot write .*mask\.png: No space left on device"):
        write(OSError(28, "No space left on device"))
    with pytest.raises(ZeroDivisionError):
        write(ZeroDivisionError())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_an_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*none; create it first"):
        check_output(tmp_path / "none" / "mask.png")
    with pytest.raises(UserError, match="it is a folder, expected the name of a file"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there is no folder"):
        check_output(tmp_path / "file" / "mask.png")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="no permission to write in"):
        check_output(tmp_path / "mask.png")
