"""scripts/train_nano.py as a person calls it, with a SAM of four blocks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from structsam_export.models.checkpoints import build_sam, load_weights
from structsam_export.training import loop

Call = Callable[[str], tuple[int | str | None, str, str]]
RunScript = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def train_nano(
    small_nano: None,
    folder: Path,
    tmp_path: Path,
    run_script: RunScript,
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    """Runs the script in this process: exit code, stdout, stderr. Its data are at `data`."""
    (tmp_path / "data").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "STAGES", (loop.Stage(0, 32, 1),))
    monkeypatch.setattr(loop.Settings.__init__, "__defaults__", ("cpu", 1, False, 0, 0, loop.STAGES))

    def call(line: str) -> tuple[int | str | None, str, str]:
        return run_script("train_nano", line)

    return call


def test_train_resume_score_and_export(train_nano: Call, tmp_path: Path) -> None:
    code, out, err = train_nano("-o run --steps 4 --workers 0")
    assert (code, out) == (0, "")
    assert "step      4  32 px  photos 0." in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "last.pt",
        "stable.pt",
        "curves.jsonl",
        "curves.png",
    }
    assert train_nano("-o run --steps 4")[::2] == (
        2,
        "error: run already holds a run; add --resume, or give -o another folder\n",
    )
    assert train_nano("-o run --steps 5 --workers 0 --resume")[0] == 0
    code, out, _ = train_nano("-o run --validate --export nano.safetensors")
    assert code == 0
    assert out.startswith("step 5, 32 px, mean IoU with box prompts: photographs 0.")
    weights = load_file(tmp_path / "nano.safetensors")
    load_weights(build_sam(loop.ARCH, 32), weights, loop.ARCH, "what was exported")
    code, _, err = train_nano("-o more --from nano.safetensors --step 5 --steps 7 --workers 0")
    assert code == 0
    assert "step      7  32 px" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "--from none.safetensors",
            "error: --from none.safetensors cannot be read; expected a file of --export\n",
        ),
        ("--step 5", "error: --step 5 without --from would skip training; leave it out\n"),
    ],
)
def test_bad_beginnings(train_nano: Call, line: str, told: str) -> None:
    assert train_nano(f"-o run --steps 7 --workers 0 {line}")[::2] == (2, told)


def test_nothing_to_score(train_nano: Call) -> None:
    code, _, err = train_nano("-o run --validate")
    assert code == 2
    assert err.startswith("error: no checkpoint at run/last.pt;")
