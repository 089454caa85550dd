"""The main command: mistakes in one line, interruptions without a trace, one small export from end to end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import skimage.data
import torch
from PIL import Image

from structsam_export import pipeline
from structsam_export.choices import Precision
from structsam_export.cli.export import _precision
from structsam_export.merging.registry import METHODS
from structsam_export.models.checkpoints import build_sam, load_sam
from structsam_export.verify import Report
from structsam_runtime.cli.program import structsam
from structsam_runtime.errors import NotFiniteError, UserError
from structsam_runtime.runners import cuda, openvino

ROOT = Path(__file__).parents[3]
GOOD = ("--arch", "two", "--image-size", "224", "--random-weights", "--output", "made")

Ended = tuple[int | str | None, str, str]
Command = Callable[..., Ended]


@pytest.fixture
def command(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in an empty folder: its exit code, and what it wrote to stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def invoke(*args: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            structsam(["export", *args])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    return invoke


def left(folder: Path) -> dict[str, str]:
    """Every file with its content, and every empty folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in paths}


def an_export(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text("old")
    (folder / "encoder.onnx").write_text("old")


# Mistakes


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("touched",)


def prepare_files() -> None:
    """What the mistakes below name, in the current folder."""
    torch.save({"model": {"a": torch.ones(2)}, "hook": Hostile()}, "hostile.pth")
    torch.save({"a": torch.rand(1000)}, "cut.pth")
    Path("cut.pth").write_bytes(Path("cut.pth").read_bytes()[:2000])
    torch.save({"a": torch.ones(2)}, "other.pth")
    torch.save(build_sam("tiny", 64).state_dict() | {"extra": torch.ones(1)}, "more.pth")
    Path("file").write_text("precious")
    Path("photos").mkdir()
    Path("photos/note.txt").write_text("no image")
    Path("broken").mkdir()
    Path("broken/photo.jpg").write_text("no image")
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("precious")
    an_export(Path("export"))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "rate below 0": (["--rate", "-0.1"], "the rate of window blocks is -0.1; expected 0 to 0.75"),
    "rate above what cells can lose": (["--rate", "0.76"], "is 0.76; expected 0 to 0.75"),
    "rate of window blocks": (["--rate-window", "0.9"], "the rate of window blocks is 0.9"),
    "rate of global blocks": (["--rate-global", "inf"], "the rate of global blocks is inf"),
    "rate that is no number": (["--rate", "nan"], "is nan; expected 0 to 0.75"),
    "rate in words": (["--rate", "half"], "--rate"),
    "unknown architecture": (["--arch", "vit_x"], "--arch vit_x is unknown; expected one of vit_nano, vit_b"),
    "unknown family": (["--family", "sam2"], "--family sam2 is unknown; expected sam or medsam"),
    "unknown layout": (["--decoder-layout", "hq"], "--decoder-layout"),
    "layout with padding where there is none": (
        ["--decoder-layout", "meta", "--family", "medsam"],
        "--decoder-layout meta cuts off SAM's padding, and --family medsam has none; leave one of them out",
    ),
    "unknown method": (["--method", "nose"], "--method"),
    "option of another method": (
        ["--method", "tome:flatness=mean"],
        "--method tome has no option flatness; expected one of channels, reduction, proportional",
    ),
    "unknown gradient": (["--method", "structsam:gradient=prewitt"], "expected sobel or central"),
    "two precisions": (["--fp16", "--precision", "fp32"], "--fp16 and --precision fp32 exclude each other"),
    "8 bits and fp32": (["--int8", "--precision", "fp32"], "--int8 and --precision fp32 exclude each other"),
    "8 bits of no such layer": (
        ["--int8", "--int8-skip", "fc2"],
        "--int8-skip fc2 fits no layer; expected auto",
    ),
    "layers to skip without 8 bits": (["--int8-skip", "auto"], "--int8-skip is for int8 and fp8, not fp32"),
    "bf16 and 8 bits": (["--int8", "--precision", "bf16"], "--int8 and --precision bf16 exclude each other"),
    "unknown precision": (["--precision", "int3"], "--precision"),
    "bf16 for JetPack 6": (
        ["--precision", "bf16", "--target", "tensorrt10"],
        "bf16 needs ONNX opset 23, and --target tensorrt10 has 20; expected --target cpu or cuda or",
    ),
    "bf16 for Triton": (
        ["--precision", "bf16", "--triton-repository", "models"],
        "--triton-repository with --precision bf16: Triton serves ONNX files with ONNX Runtime, which",
    ),
    "no recipe": (["--recipe", "missing.json"], "no file missing.json; expected a recipe as JSON"),
    "recipe that is none": (["--recipe", "file"], "file cannot be read as JSON"),
    "recipe and flags": (
        ["--recipe", "file", "--rate", "0", "--method", "tome", "--merge-mlp"],
        "--recipe defines every block; leave --method and --rate and --merge-mlp out",
    ),
    "unknown option": (["--half"], "--half"),
    "argument too many": (["photo.jpg"], "photo.jpg"),
    "cell that does not divide": (["--cell", "3"], "a cell of 3 x 3 does not divide both the window"),
    "image size": (["--image-size", "100"], "--image-size 100 is not a multiple of 16"),
    "windows of a prompt without one": (
        ["--prompt-windows", "2"],
        "--prompt-windows without --prompt-aware has no effect; add it",
    ),
    "prompts where there is one window": (["--prompt-aware"], "--image-size 224 has only one; expected more"),
    "prompts for another method": (
        ["--prompt-aware", "--method", "tome", "--image-size", "320"],
        "--prompt-aware is not supported by --method tome",
    ),
    "all windows for prompts": (
        ["--prompt-aware", "--prompt-windows", "4", "--image-size", "320"],
        "--prompt-windows is 4, and --image-size 320 has 4 windows; expected 1 to 3",
    ),
    "block that is not there": (["--skip-blocks", "0,99"], "--skip-blocks 0,99 names a block"),
    "a server that has no such backend": (
        ["--triton-repository", "models", "--engine", "tensorrt-rtx"],
        "--triton-repository does not go with --engine tensorrt-rtx",
    ),
    "a repository around the export": (["--triton-repository", "."], "would hold one another"),
    "blocks in words": (["--skip-blocks", "all"], "--skip-blocks all is not a list of block numbers"),
    "both kinds of weights": (["--checkpoint", "more.pth"], "exclude each other"),
    "output that is there": (["--output", "export"], "holds an export already; choose another"),
    "output with other files": (["--output", "mine"], "holds files that are not an export"),
    "output with other files, by force": (["--output", "mine", "--force"], "that are not an export"),
    "output that is a file": (["--output", "file"], "is a file; expected a folder"),
    "output below a file": (["--output", "file/made"], "cannot be written"),
    "output far below a file": (["--output", "file/deep/made"], "cannot be written"),
    "images that are not there": (
        ["--verify-images", "missing"],
        "no folder missing; expected a folder",
    ),
    "images without an image": (["--verify-images", "photos"], "no image in photos; expected files like"),
    "images that are none": (["--verify-images", "broken"], "photo.jpg is not a picture"),
    "images that are a file": (["--verify-images", "file"], "no folder file; expected a folder of images"),
}
CHECKPOINTS = {
    "missing": ("missing.pth", "no checkpoint at missing.pth"),
    "a folder": ("photos", "no checkpoint at photos"),
    "text": ("file", "expected a PyTorch state dict of a SAM"),
    "cut short": ("cut.pth", "cut.pth is damaged or no checkpoint"),
    "of another model": ("other.pth", "other.pth is not a SAM tiny: "),
    "with more than a SAM": ("more.pth", "1 are unknown (extra ..)"),
    "that wants to run code": ("hostile.pth", "hostile.pth holds Python objects that could run code"),
}


def check_mistake(command: Command, args: list[str], message: str, folder: Path) -> None:
    prepare_files()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = command(*args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert message in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["broken", "cut.pth", "export", "file", "hostile.pth", "mine", "more.pth", "other.pth", "photos"]
    )


@pytest.mark.parametrize("what", MISTAKES)
def test_a_usage_error_is_one_line_and_exit_code_2(command: Command, tmp_path: Path, what: str) -> None:
    args, message = MISTAKES[what]
    check_mistake(command, [*GOOD, *args], message, tmp_path)


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line_and_exit_code_2(command: Command, tmp_path: Path, what: str) -> None:
    name, message = CHECKPOINTS[what]
    args = ["--arch", "tiny", "--image-size", "64", "--output", "made", "--checkpoint", name]
    check_mistake(command, args, message, tmp_path)


def test_a_checkpoint_that_cannot_be_downloaded_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structsam_export.models.downloads.META", (tmp_path / "nowhere").as_uri() + "/")
    monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path / "cache"))
    code, out, err = command("--arch", "tiny", "--image-size", "64", "--output", "made")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--checkpoint PATH for a file you have, or --random-weights" in err
    assert left(tmp_path) == {"cache": ""}


def test_a_missing_tensorrt_is_reported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    code, out, err = command(*GOOD, "--engine", "tensorrt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "structsam[tensorrt]"' in err


def test_tensorrt_without_a_gpu_is_an_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("tensorrt")
    library.__version__ = "10.3.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(cuda, "gpu", Mock(side_effect=UserError("no GPU")))
    code, out, err = command(*GOOD, "--engine", "tensorrt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "GPU" in err
    assert "--engine tensorrt-rtx" in err


# Help

HELP = """
import sys
from structsam_runtime.cli.program import structsam
try:
    structsam(["export", "--help"])
finally:
    assert "torch" not in sys.modules and "onnx" not in sys.modules, "help must not wait for them"
"""


def test_help_is_short_and_quick() -> None:
    wide = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, env=wide, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.rstrip().splitlines()
    assert len(lines) <= 64
    assert max(map(len, lines)) <= 100
    for option in ("--arch", "--rate", "--fp16", "--verify-images", "--force", "--recipe", "--precision"):
        assert option in done.stdout


def test_the_script_beside_the_readme_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "export.py"), "--arch", "vit_x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# Interruptions and failures

GOOD_REPORT = Report(
    runner="onnxruntime CPUExecutionProvider",
    images=["photo.jpg"],
    error=1e-6,
    cosine=1.0,
    cosine_end_to_end=1.0,
    plans=1.0,
    plans_by_block={0: 1.0},
    mask_iou=1.0,
    mask_iou_min=1.0,
    prompts=18,
)
STEPS = [
    *("load", "samples", "build_encoder", "build_decoder", "verify", "reference"),
    *("encoder_macs", "manifest", "write"),
]


@pytest.fixture
def quick(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline with its slow steps replaced by ones that only leave their files."""
    sam = load_sam("two", 224, None, random_weights=True)

    def build(config: Any, module: Any, path: Path, progress: Any) -> None:
        path.write_text("new")

    def write(path: Path, content: Any) -> None:
        path.write_text("new")

    for name, step in {
        "load": lambda config: sam,
        "samples": lambda *_: [],
        "build_encoder": build,
        "build_decoder": build,
        "verify": lambda *_, **__: (GOOD_REPORT, []),
        "reference": lambda *_: types.SimpleNamespace(answers=[], save=lambda path: path.write_text("new")),
        "manifest": lambda *_: {},
        "write": write,
    }.items():
        monkeypatch.setattr(pipeline, name, step)


OLD = {"made/manifest.json": "old", "made/encoder.onnx": "old"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
def test_an_export_that_is_not_disturbed_is_whole(command: Command, tmp_path: Path, existing: bool) -> None:
    if existing:
        an_export(tmp_path / "made")
    code, out, _ = command(*GOOD, "--force")
    assert code == 0
    assert left(tmp_path) == {
        f"made/{name}": "new" for name in ("encoder.onnx", "decoder.onnx", "reference.npz", "manifest.json")
    }
    assert "next: structsam predict made" in out


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("precision", [one for one in Precision if not one.quantized])
def test_the_next_command_runs_what_was_verified(command: Command, precision: Precision) -> None:
    code, out, err = command(*GOOD, "--precision", precision)
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("next: "))
    assert line.endswith(" --runner openvino") == (precision is Precision.BF16)


@pytest.mark.usefixtures("quick")
def test_a_precision_whose_runner_is_not_installed_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UserError('openvino is not installed; pip install "structsam[openvino]"')

    monkeypatch.setattr(openvino, "library", missing)
    code, out, err = command(*GOOD, "--precision", "bf16")
    assert (code, out) == (2, "")
    told = 'openvino is not installed; pip install "structsam[openvino]"'
    assert err == f"error: exports in bf16 are verified in openvino: {told}\n"
    assert not left(tmp_path)
    assert command(*GOOD, "--precision", "fp16")[0] == 0


@pytest.mark.usefixtures("quick")
def test_the_next_command_can_be_pasted(command: Command) -> None:
    folder = "sam v1.0 é; it's"
    code, out, _ = command(*GOOD, "--output", folder)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[:5] == ["next:", "structsam", "predict", folder, "photo.jpg"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_any_step_leaves_everything_as_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    if existing:
        an_export(tmp_path / "made")
    done = getattr(pipeline, step)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        if step != "encoder_macs":
            done(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, step, interrupted)
    code, out, err = command(*GOOD, "--force")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert left(tmp_path) == (OLD if existing else {})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", ["load", "build_encoder", "verify", "write"])
def test_what_appears_while_an_export_runs_stays(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    if existing:
        an_export(tmp_path / "made")
    done = getattr(pipeline, step)

    def joined(*args: Any, **kwargs: Any) -> Any:
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "precious").write_text("precious")
        return done(*args, **kwargs)

    monkeypatch.setattr(pipeline, step, joined)
    code, out, err = command(*GOOD, *(["--force"] if existing else []))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("stays as it is; the new export is in " + str(tmp_path / "made-2"))
    made = {
        f"made-2/{name}": "new" for name in ("encoder.onnx", "decoder.onnx", "reference.npz", "manifest.json")
    }
    assert left(tmp_path) == {**made, **(OLD if existing else {}), "made/precious": "precious"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_at_any_step_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    if existing:
        an_export(tmp_path / "made")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, step, full)
    code, out, err = command(*GOOD, "--force")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "error: --output made cannot be written: No space left on device; nothing was written"
    )
    assert left(tmp_path) == (OLD if existing else {})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (
            "build_encoder",
            pipeline.LintError("TensorRT would refuse the encoder"),
            "would refuse the encoder",
        ),
        ("verify", NotFiniteError("torch gave NaN in image_embedding"), "NaN in image_embedding"),
        ("verify", pipeline.VerificationError("mask IoU is 0.5"), "mask IoU is 0.5"),
    ],
    ids=["lint", "not finite", "verification"],
)
def test_an_export_that_fails_its_checks_is_exit_code_3(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception,
    message: str,
    existing: bool,
) -> None:
    if existing:
        an_export(tmp_path / "made")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, step, fail)
    code, out, err = command(*GOOD, "--force")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("failed: ")
    assert message in err.splitlines()[-1]
    assert "nothing was written" in err
    assert left(tmp_path) == (OLD if existing else {})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": 0.01}, "largest embedding error is 0.01, expected at most 0.001 for fp32"),
        ({"cosine": 0.9}, "embedding cosine is 0.9, expected at least 0.99999 for fp32"),
        ({"plans": 0.9}, "plan agreement is 0.9"),
        ({"mask_iou": 0.5}, "mask IoU is 0.5"),
        ({"error": float("nan")}, "largest embedding error is nan"),
    ],
)
def test_a_bad_report_is_exit_code_3(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, float],
    message: str,
) -> None:
    report = Report(**vars(GOOD_REPORT) | change)
    monkeypatch.setattr(pipeline, "verify", lambda *_, **__: (report, []))
    code, out, err = command(*GOOD)
    assert (code, out) == (3, "")
    assert message in err.splitlines()[-1]
    assert left(tmp_path) == {}


@pytest.mark.usefixtures("quick")
def test_a_fragile_method_is_held_to_its_arithmetic(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runtimes may differ in masks where ranks hang on the last bits, but not in what they compute."""
    differing = vars(GOOD_REPORT) | {"plans": 0.995, "mask_iou": 0.9, "cosine_end_to_end": 0.9}
    report = Report(**differing | {"fragile": True})
    monkeypatch.setattr(pipeline, "verify", lambda *_, **__: (report, []))
    code, out, _ = command(*GOOD, "--method", "pitome")
    assert code == 0
    assert "merges by ranks that a last bit can swap" in out
    for change in ({"fragile": False}, {"error": 0.01}, {"plans": 0.98}, {"cosine_end_to_end": 0.8}):
        worse = Report(**vars(report) | change)
        monkeypatch.setattr(pipeline, "verify", lambda *_, made=worse, **__: (made, []))
        assert command(*GOOD, "--method", "pitome", "--force")[0] == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("method", "capped"), [("tome", True), ("tomesd", False)])
def test_the_summary_has_the_effective_rate(
    command: Command, monkeypatch: pytest.MonkeyPatch, method: str, capped: bool
) -> None:
    """Small windows round what is removed, which is not the method's limit."""
    shares = {"window": 0.5, "global": 0.5 if capped else 0.55}
    counts = {kind: {"effective_rate": share} for kind, share in shares.items()}
    monkeypatch.setattr(pipeline, "merging", lambda encoder: counts)
    code, out, _ = command(*GOOD, "--method", method)
    assert code == 0
    assert f"tokens removed: {shares['window']:.1%} in window blocks, {shares['global']:.1%} in global" in out
    assert ("tome removes at most 50% of the tokens: rates above 0.5 are 0.5" in out) == capped


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("weights", "told"), [("random, seed 0", "tuned: agreement 97"), ("", "tune it for")]
)
def test_the_summary_of_a_tuned_recipe_has_its_agreement(
    command: Command, monkeypatch: pytest.MonkeyPatch, weights: str, told: str
) -> None:
    """One rate for all window blocks would be wrong: they may differ."""
    numbers = {"agreement": 0.97, "low": 0.96, "high": 0.98, "pictures": 5, "prompts": 90, "gmac": 0.1}
    tuned = {**numbers, "weights": weights, "image_size": 224}
    Path("recipe.json").write_text(json.dumps({"blocks": [{"rate": 0.25}, {"rate": 0}], "tuned": tuned}))
    counts = {kind: {"effective_rate": 0.5} for kind in ("window", "global")}
    monkeypatch.setattr(pipeline, "merging", lambda encoder: counts)
    code, out, _ = command(*GOOD, "--recipe", "recipe.json")
    assert code == 0
    assert told in out
    assert "tokens removed: see the recipe\n" in out


WAITING = """
import sys, time
from structsam_export import pipeline
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_runtime.cli.program import structsam

def wait(config, sam, path, progress):
    path.write_text("half")
    time.sleep(60)

ARCHITECTURES["two"] = Architecture(64, 2, 2, (1,), "", "")
pipeline.build_encoder = wait
structsam(["export", *sys.argv[1:]])
"""


def restore_interrupts() -> None:
    """What a shell runs in the background starts deaf to Ctrl-C, and so do its children; not this one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_leaves_everything_as_it_was(tmp_path: Path, sent: signal.Signals) -> None:
    an_export(tmp_path / "made")
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *GOOD, "--force"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_interrupts,
    ) as process:
        try:
            for _ in range(600):
                if list(tmp_path.glob(".made.*.partial/*/**/encoder.onnx")) or process.poll() is not None:
                    break
                time.sleep(0.1)
            process.send_signal(sent)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert left(tmp_path) == OLD


def test_methods_are_listed_with_their_options(command: Command) -> None:
    code, out, err = command("--methods")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for method in METHODS.values():
        assert f"{method.name}: {method.label}" in lines
        for option in method.options:
            assert any(line.startswith(f"  {method.name}:{option.name}=") for line in lines)


# One export from end to end


@pytest.mark.export
def test_a_small_sam_is_exported_verified_and_described(command: Command, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(skimage.data.astronaut()).save(photos / "astronaut.png")
    layout = ("--decoder-layout", "meta")
    code, out, err = command(*GOOD, "--rate", "0.5", "--verify-images", "photos", *layout)
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "decoder.meta.onnx",
        "decoder.onnx",
        "encoder.onnx",
        "manifest.json",
        "reference.npz",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "photos"]
    content = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert content["arguments"]["rate_window"] == 0.5
    assert content["arguments"]["arch"] == "two"
    assert content["decoder_meta"]["file"] in content["files"]
    assert content["decoder_meta"]["mask_iou"] > 0.99
    assert content["decoder_meta"]["outputs"][0]["name"] == "masks"
    assert "GMAC" in out


@pytest.mark.parametrize(
    ("named", "flags", "expected"),
    [
        (None, (), "fp32"),
        (None, ("fp16",), "fp16"),
        (None, ("int8",), "int8"),
        (None, ("fp16", "int8"), "int8-fp16"),
        ("int8", ("fp16",), "int8-fp16"),
        ("fp16", ("int8",), "int8-fp16"),
        ("int8-fp16", ("fp16", "int8"), "int8-fp16"),
        ("int8", ("int8",), "int8"),
        ("int8-fp16", (), "int8-fp16"),
        ("bf16", (), "bf16"),
        ("fp8", (), "fp8"),
        ("fp8", ("fp16",), "fp8-fp16"),
        ("fp8-fp16", ("fp16",), "fp8-fp16"),
    ],
)
def test_flags_name_a_precision_together(named: str | None, flags: tuple[str, ...], expected: str) -> None:
    asked = Precision(named) if named else None
    assert _precision(asked, "fp16" in flags, "int8" in flags) == expected
