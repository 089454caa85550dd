"""structsam spectral as a person calls it, on a small SAM."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from structsam_export.analysis.spectral import encoder_distortion, encoder_sums
from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.merging.registry import METHODS
from structsam_export.pipeline import load
from structsam_runtime.predict.image import prepare

TINY = "--arch tiny --random-weights --image-size 320"

Spectral = Callable[[str], tuple[int | str | None, str, str]]
RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def spectral(tiny: str, photo: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Spectral:
    """Runs the command in this process, in the folder of the photograph: exit code, stdout, stderr."""

    def call(line: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(photo.parent)
        return run_command("spectral", line)

    return call


def test_all_methods(spectral: Spectral, photo: Path) -> None:
    code, out, err = spectral(f"photo.png -o plot.png {TINY}")
    assert (code, err) == (0, "")
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "plot.png", "plot.json"}
    result = json.loads((photo.parent / "plot.json").read_text())
    assert (result["photo"], result["arch"], result["image_size"]) == ("photo.png", "tiny", 320)
    assert (result["weights"]["source"], result["rate"]) == ("random, seed 0", 0.55)
    assert [block["attention"] for block in result["blocks"]] == ["window", "global"] * 2
    assert [block["windows"] * block["tokens"] for block in result["blocks"]] == [4 * 196, 400] * 2
    assert list(result["encoder"]) == list(METHODS)
    rows = {line.split()[0]: line for line in out.splitlines()}
    for name, total in result["encoder"].items():
        assert total == sum(block["sd"][name] for block in result["blocks"]) > 0.01
        assert rows[name].split()[-1] == f"{total:.4f}"
    assert "88 of 196" in rows["structsam"]
    assert "178 of 400" in rows["structsam"]


def test_the_numbers_are_those_of_the_library(spectral: Spectral, photo: Path) -> None:
    """On the photograph, at the rate and for the methods that were asked for; 1e-9 for rounding."""
    chosen = "--method tome --method structsam --method tome"
    code, out, _ = spectral(f"photo.png -o plot.svg {TINY} --rate 0.3 {chosen}")
    assert code == 0
    assert "tomesd" not in out
    told = json.loads((photo.parent / "plot.json").read_text())["encoder"]
    configs = {
        name: ExportConfig.of("tiny", name, 0.3, random_weights=True, image_size=320)
        for name in ("tome", "structsam")
    }
    sam = load(configs["tome"])
    tensor, _ = prepare(skimage.data.coffee(), model_of(configs["tome"], sam))
    methods = {name: config.methods() for name, config in configs.items()}
    blocks = list(encoder_distortion(sam.image_encoder, torch.from_numpy(tensor), methods))
    assert list(told) == list(methods)
    assert told == pytest.approx(encoder_sums(blocks), abs=1e-9)


@pytest.mark.long
def test_the_plot_shows_every_method(spectral: Spectral, photo: Path) -> None:
    pictures = []
    for chosen in ("--method structsam", "--method structsam --method tome"):
        assert spectral(f"photo.png -o plot.png {TINY} {chosen}")[0] == 0
        with Image.open(photo.parent / "plot.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    colours = {(213, 94, 0), (0, 114, 178)}  # in the order of the methods
    for picture, expected in zip(pictures, ({(213, 94, 0)}, colours), strict=True):
        found = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
        assert found & colours == expected


def test_nothing_moves_at_rate_0(spectral: Spectral, photo: Path) -> None:
    """And a logarithmic axis without a value above 0 is no reason to fail."""
    code, _, err = spectral(f"photo.png -o plot.pdf {TINY} --rate 0 --method structsam")
    assert (code, err) == (0, "")
    assert json.loads((photo.parent / "plot.json").read_text())["encoder"]["structsam"] < 1e-9
    assert (photo.parent / "plot.pdf").stat().st_size > 1000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo.png -o plot.json", "--output plot.json does not end in .png, .pdf or .svg"),
        ("photo.png -o ./photo.png", "is the photograph itself"),
        ("photo.png -o none/plot.png", "there is no folder none"),
        ("none.png -o plot.png", "no file none.png"),
        ("photo.png", "Missing option"),
        (
            "photo.png -o plot.png --method nose",
            "--method nose is unknown; expected one of structsam",
        ),
        ("photo.png -o plot.png --rate 0.8", "the rate of window blocks is 0.8"),
        ("photo.png -o plot.png --image-size 300", "--image-size 300 is not a multiple of 16"),
        ("photo.png -o plot.png --checkpoint x.pth", "--checkpoint and --random-weights exclude each other"),
    ],
)
def test_usage_errors_print_one_line_and_write_nothing(
    line: str, message: str, spectral: Spectral, photo: Path
) -> None:
    code, out, err = spectral(f"--arch tiny --random-weights {line}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(photo.parent.iterdir()) == [photo]


def test_help(spectral: Spectral) -> None:
    code, out, _ = spectral("--help")
    assert code == 0
    assert "--method" in out
