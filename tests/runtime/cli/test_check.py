"""`structsam check`: its table, its exit codes, and exports that cannot be checked."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from structsam_runtime.errors import NotFiniteError, UserError

Run = Callable[[str, str], tuple[int | str | None, str, str]]
Sign = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path, checked_folder: Path) -> Path:
    """A copy that a test changes."""
    return Path(shutil.copytree(checked_folder, tmp_path / "out"))


def weaken(folder: Path, factor: float) -> None:
    """Change the encoder's weights, as a bad copy or a bad kernel would, but of the same size."""
    model = onnx.load(folder / "encoder.onnx")
    (weight,) = model.graph.initializer
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, folder / "encoder.onnx")


def test_an_export_that_is_right_here_passes_with_a_table(checked_folder: Path, run_command: Run) -> None:
    code, out, err = run_command("check", f"{checked_folder}")
    first, titles, *rows, last = out.splitlines()
    assert (code, err) == (0, "")
    assert first == "stand-in on cpu, compared with PyTorch 2.9.0 on x86_64"
    assert titles.split("  ")[0] == "picture"
    assert [row.split()[0] for row in rows] == ["coffee", "chelsea", "worst", "limit"]
    assert " ".join(rows[-1].split()) == "limit least 0.0003 0.999 mean 0.99 n/a mean 0.99 0.0002"
    assert len({len(row) for row in [titles, *rows]}) == 1, "columns are aligned"
    assert last == "passed: all thresholds of its precision"


def test_a_miss_is_exit_code_3(folder: Path, run_command: Run, sign_again: Sign) -> None:
    weaken(folder, 1.01)
    sign_again(folder)
    code, out, err = run_command("check", f"{folder}")
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()][-2:] == ["worst", "limit"]
    assert "passed" not in out
    (line,) = err.splitlines()
    assert line.startswith("failed: least embedding error is 0.0")
    assert line.endswith(", expected at most 0.0003 for fp32")


@pytest.mark.filterwarnings("default::structsam_runtime.errors.Caution")
def test_a_file_that_changed_is_refused_or_measured(folder: Path, run_command: Run) -> None:
    for factor, passes in ((1.000001, 0), (1.1, 3)):
        weaken(folder, factor)
        code, _, err = run_command("check", f"{folder}")
        assert (code, err.count("\n")) == (2, 1)
        assert "encoder.onnx has sha256 " in err
        assert err.endswith("if you changed it, --unverified loads it\n")
        code, _, err = run_command("check", f"{folder} --unverified")
        assert code == passes
        assert err.startswith("warning: the files of ")


def test_nan_is_exit_code_3(folder: Path, run_command: Run, sign_again: Sign) -> None:
    weaken(folder, float("nan"))
    sign_again(folder)
    code, out, err = run_command("check", f"{folder}")
    assert (code, "passed" in out) == (3, False)
    assert err == f"failed: {folder}/encoder.onnx returned NaN or infinity in image_embedding of coffee\n"


def damage(folder: Path) -> None:
    path = folder / "reference.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "reference.npz"
    path.write_bytes(path.read_bytes()[: 2**16])


def forget(folder: Path) -> None:
    path = folder / "manifest.json"
    said = json.loads(path.read_text())
    del said["files"]["reference.npz"]
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("change", "signed", "message"),
    [
        (damage, False, "reference.npz has sha256 "),
        (damage, True, "reference.npz is not a reference that this version reads: "),
        (cut, False, "reference.npz has 65536 bytes, its manifest says "),
        (cut, True, "reference.npz is not a reference that this version reads: "),
        (
            forget,
            False,
            "has no reference.npz: an older version made it; compare it with PyTorch, by --against",
        ),
        (lambda folder: (folder / "reference.npz").unlink(), False, "no reference.npz in "),
        (lambda folder: (folder / "manifest.json").unlink(), False, "no manifest.json in "),
        (lambda folder: shutil.copy(folder / "decoder.onnx", folder / "reference.npz"), True, "is not a ref"),
    ],
)
def test_a_reference_that_is_none_is_one_line(
    folder: Path,
    run_command: Run,
    sign_again: Sign,
    change: Callable[[Path], Any],
    signed: bool,
    message: str,
) -> None:
    change(folder)
    if signed:
        sign_again(folder)
    code, out, err = run_command("check", f"{folder}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner gpu", "runner 'gpu' is unknown"),
        ("--images pictures", "--images without --against pytorch has no effect; add it"),
        ("--checkpoint a.pth --images b", "--checkpoint and --images without --against pytorch"),
        ("--against torch", "'torch' is not one of 'reference', 'pytorch'"),
    ],
)
def test_usage_errors_are_one_line(
    checked_folder: Path, run_command: Run, options: str, message: str
) -> None:
    code, out, err = run_command("check", f"{checked_folder} {options}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_names_of_pictures_obey_no_terminal(folder: Path, run_command: Run, sign_again: Sign) -> None:
    with np.load(folder / "reference.npz") as kept:
        content = dict(kept)
    said = str(content["about"]).replace('"coffee"', '"\\u001b[31mred"')
    np.savez(folder / "reference.npz", **content | {"about": np.array(said)})
    sign_again(folder)
    code, out, _ = run_command("check", f"{folder}")
    assert code == 0
    assert out.isascii()
    assert r"\x1b[31mred" in out


# With PyTorch


def test_without_pytorch_it_says_what_to_install(
    checked_folder: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("structsam_export")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_command("check", f"{checked_folder}")[0] == 0
    code, out, err = run_command("check", f"{checked_folder} --against pytorch")
    assert (code, out) == (2, "")
    assert err == (
        'error: structsam check --against pytorch needs torch; pip install "structsam[export,cpu]"\n'
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the export side; keeps what it was asked, and answers or raises what it is given."""
    given: list[Any] = []

    def compare(*arguments: Any) -> Any:
        answer = given.pop()
        given.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("structsam_export.check")
    module.compare, module.Progress = compare, lambda: "progress"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "structsam_export.check", module)
    return given


REPORT = SimpleNamespace(table=lambda: "the table")


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ((REPORT, []), (0, "the table\npassed: all thresholds of its precision\n", "")),
        ((REPORT, ["a is 1", "b is 2"]), (3, "the table\n", "failed: a is 1\nfailed: b is 2\n")),
        (NotFiniteError("NaN in masks"), (3, "", "failed: NaN in masks\n")),
        (UserError("another hash"), (2, "", "error: another hash\n")),
    ],
)
def test_it_repeats_the_comparison_with_pytorch(
    run_command: Run, asked: list[Any], answer: Any, ended: Any
) -> None:
    asked.append(answer)
    options = "--against pytorch --images pictures --checkpoint a.pth --runner cuda --unverified"
    assert run_command("check", f"out {options}") == ended
    assert asked == [(Path("out"), Path("pictures"), "cuda", Path("a.pth"), "progress", False)]
