"""scripts/train_nano.py as a person calls it, with a SAM of two blocks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from structsam_export.models.architectures import Architecture
from structsam_export.models.checkpoints import build_sam, load_weights
from structsam_export.training import loop, schedule, validate

Call = Callable[[str], tuple[int | str | None, str, str]]
RunScript = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def train_nano(
    tiny_nano: Architecture,
    data: Path,
    tmp_path: Path,
    run_script: RunScript,
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    """Runs the script in this process: exit code, stdout, stderr. Its data are at `data`."""
    (tmp_path / "data").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    defaults = schedule.Settings.__init__.__defaults__
    stages = (schedule.Stage(0.5, 32), schedule.Stage(1.0, 48))
    monkeypatch.setattr(schedule.Settings.__init__, "__defaults__", (*defaults[:-2], stages, tiny_nano))
    monkeypatch.setattr(schedule, "BATCH_SIZE", 32)
    monkeypatch.setattr(loop, "PICTURES", 1)
    monkeypatch.setattr(loop, "SCENES", 1)
    monkeypatch.setattr(validate, "thin_set", lambda *_: [])

    def call(line: str) -> tuple[int | str | None, str, str]:
        return run_script("train_nano", line)

    return call


def test_train_resume_score_and_export(train_nano: Call, tmp_path: Path, tiny_nano: Architecture) -> None:
    code, out, err = train_nano("-o run --steps 2 --batch 1")
    assert (code, out) == (0, "")
    assert "step 2, 0." in err
    assert " min, 48 px\nsource" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.pt", "curves.jsonl", "curves.png"}
    assert train_nano("-o run --steps 4")[::2] == (
        2,
        "error: run already holds a run; add --resume, or give -o another folder\n",
    )
    assert train_nano("-o run --minutes 0.0001 --resume")[0] == 0  # it is over
    code, out, _ = train_nano("-o run --validate --export nano.safetensors")
    assert code == 0
    assert out.startswith("step 2, 48 px: mean IoU by box and by click, error of predicted IoU\nsource ")
    assert "coco-train " in out
    weights = load_file(tmp_path / "nano.safetensors")
    load_weights(build_sam(tiny_nano), weights, "tiny", "what was exported")
    code, _, err = train_nano("-o more --from nano.safetensors --minutes 0.0001 --batch 1")
    assert code == 0
    assert "step 1, 0." in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "--steps 7 --from none.safetensors",
            "no checkpoint at none.safetensors; give --checkpoint an existing file",
        ),
        ("", "a run ends by --steps or by --minutes; give one of them"),
        ("--steps 7 --minutes 1", "a run ends by --steps or by --minutes; give one of them"),
    ],
)
def test_bad_beginnings(train_nano: Call, line: str, told: str) -> None:
    assert train_nano(f"-o run {line}")[::2] == (2, f"error: {told}\n")


def test_nothing_to_score(train_nano: Call) -> None:
    code, _, err = train_nano("-o run --validate")
    assert code == 2
    assert err.startswith("error: no checkpoint at run/last.pt;")
