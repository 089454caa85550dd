"""structsam predict as a person calls it."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

BOX = "--box 100 80 400 360"
# The fake decoder draws three ellipses at every point, and thinks less of them than the defaults ask for.
EVERYTHING = "--everything --points-per-side 3 --pred-iou-thresh 0.2 --stability-score-thresh 0.5"

Predict = Callable[[str], tuple[int | str | None, str, str]]
RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def photo(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> Path:
    Image.fromarray(photos["coffee"]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def predict(
    export_folder: Path, photo: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> Predict:
    """Runs the command in this process, in the folder of the photograph: exit code, stdout, stderr."""

    def call(line: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(photo.parent)
        return run_command("predict", line.replace("OUT", str(export_folder)))

    return call


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_one_flipped_bit_is_one_line_and_no_mask(
    predict: Predict, export_folder: Path, photo: Path, name: str
) -> None:
    damaged = Path(shutil.copytree(export_folder, photo.parent / "damaged"))
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    code, out, err = predict(f"{damaged} photo.png {BOX} -o overlay.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(rf"error: .*{name} has sha256 .*; copy it again or export again; if you", err)
    assert not (photo.parent / "overlay.png").exists()


def test_a_manifest_cannot_forge_a_line(predict: Predict, export_folder: Path, photo: Path) -> None:
    strange = Path(shutil.copytree(export_folder, photo.parent / "strange"))
    said = json.loads((strange / "manifest.json").read_text())
    said["model"]["fit"] = "pad\nerror: forged\x1b[2J"
    (strange / "manifest.json").write_text(json.dumps(said))
    code, out, err = predict(f"{strange} photo.png {BOX} -o overlay.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {strange}")
    assert "\x1b" not in err


def test_the_command_of_the_readme(export_folder: Path, photo: Path) -> None:
    command = f"-m structsam_runtime predict {export_folder} photo.png {BOX} -o overlay.png"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=photo.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, last = done.stdout.splitlines()
    assert first.startswith("mask 1: ")
    assert "% of the picture, predicted IoU 0." in first
    assert "(resize, encoder)" in last
    with Image.open(photo.parent / "overlay.png") as overlay, Image.open(photo) as original:
        assert overlay.size == original.size
        assert np.any(np.asarray(overlay) != np.asarray(original))
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "overlay.png"}


@pytest.mark.parametrize(
    ("prompts", "masks"),
    [
        (BOX, 1),
        ("--box 100,80,400,360", 1),
        (f"{BOX} --box 10 20 90 120", 2),
        (f"{BOX} --multimask", 3),
        (f"{BOX} --box 10 20 90 120 --multimask", 6),
        ("--point 200 200 --point 250.5 210 --negative 10 10", 1),
        (f"{BOX} --point 200 200 --negative 120 90", 1),
    ],
)
def test_prompts(prompts: str, masks: int, predict: Predict, photo: Path) -> None:
    code, out, err = predict(f"OUT photo.png {prompts} -o overlay.jpg --mask mask.png")
    assert (code, err) == (0, "")
    assert out.count("predicted IoU") == masks
    with Image.open(photo.parent / "mask.png") as mask:
        pixels = np.asarray(mask)
    assert pixels.shape == (400, 600)
    assert set(np.unique(pixels)) == {0, 255}
    assert (photo.parent / "overlay.jpg").is_file()


def test_a_wrong_box_of_several_fails_alone(predict: Predict, photo: Path) -> None:
    boxes = "--box 700 0 800 9 --box 100 80 400 360 --box 9 9 1 1 --box 10 20 90 120"
    code, out, err = predict(f"OUT photo.png {boxes} -o some.png --mask some-mask.png")
    assert code == 3
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == ["mask 1, box 2", "mask 2, box 4"]
    assert err == (
        "2 of 4 boxes have no mask: box 1: the box (700, 0, 800, 9) lies outside the picture of "
        "600 x 400 pixels; box 3: the box (9, 9, 1, 1) is turned around, expected x0 <= x1 and y0 <= y1\n"
    )
    code, _, _ = predict(f"OUT photo.png {BOX} --box 10 20 90 120 -o right.png --mask right-mask.png")
    assert code == 0
    for suffix in (".png", "-mask.png"):
        some, right = ((photo.parent / f"{name}{suffix}").read_bytes() for name in ("some", "right"))
        assert some == right


def test_a_box_far_beyond_the_picture_is_drawn_at_once(predict: Predict, photo: Path) -> None:
    assert predict("OUT photo.png --box -1e9 30 1e9 70 -o far.png --mask mask.png")[0] == 0
    assert predict("OUT photo.png --box -5e3 30 5e3 70 -o near.png --mask mask.png")[0] == 0
    far, near = (np.asarray(Image.open(photo.parent / name)) for name in ("far.png", "near.png"))
    white = (np.asarray(far) >= 250).all(axis=2)
    np.testing.assert_array_equal(white, (np.asarray(near) >= 250).all(axis=2))


def test_everything(predict: Predict, photo: Path) -> None:
    code, out, err = predict(
        f"OUT photo.png {EVERYTHING} -o overlay.png --annotations masks.json --mask mask.png"
    )
    assert (code, err) == (0, "")
    assert re.fullmatch(r"27 masks in \d+\.\d s\n", out)
    with redirect_stdout(io.StringIO()):  # pycocotools reports its steps
        coco = COCO(photo.parent / "masks.json")
        found = coco.loadAnns(coco.getAnnIds())
    (picture,) = coco.loadImgs([1])
    assert picture == {"id": 1, "file_name": "photo.png", "height": 400, "width": 600}
    assert len(found) == 27
    assert [one["area"] for one in found] == sorted((one["area"] for one in found), reverse=True)
    lengths = [pycocotools.mask.frPyObjects(one["segmentation"], 400, 600) for one in found]
    assert [pycocotools.mask.area(rle) for rle in lengths] == [one["area"] for one in found]
    with Image.open(photo.parent / "mask.png") as mask:
        inside = np.asarray(mask) == 255
    assert inside.sum() == pycocotools.mask.area(pycocotools.mask.merge(lengths))
    with Image.open(photo.parent / "overlay.png") as overlay, Image.open(photo) as original:
        changed = np.any(np.asarray(overlay) != np.asarray(original), axis=2)
    np.testing.assert_array_equal(changed & ~inside, False)
    assert changed.sum() > 0.99 * inside.sum()


def test_everything_that_finds_nothing_says_what_to_do(predict: Predict, photo: Path) -> None:
    code, out, _ = predict("OUT photo.png --everything --points-per-side 2 -o overlay.png --mask mask.png")
    assert code == 0
    assert re.fullmatch(
        r"0 masks in .* s; lower --pred-iou-thresh or --stability-score-thresh to see more\n", out
    )
    with Image.open(photo.parent / "overlay.png") as overlay, Image.open(photo) as original:
        np.testing.assert_array_equal(np.asarray(overlay), np.asarray(original))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("OUT photo.png -o x.png", "no prompt; give --box X0 Y0 X1 Y1 or --point X Y"),
        ("OUT photo.png --box 1 2 3 -o x.png", "--box got '1 2 3', expected 4 numbers: X0 Y0 X1 Y1"),
        ("OUT photo.png --point a b -o x.png", "unexpected extra argument"),
        (f"OUT photo.png {BOX} {BOX} --point 1 2 -o x.png", "points came with 2 boxes"),
        (f"OUT photo.png {BOX}", "Missing option"),
        (f"OUT photo.png {BOX} -o none/x.png", "cannot write none/x.png: there is no folder none"),
        (f"OUT photo.png {BOX} -o x.txt", "'.txt' is not a picture format; use .png or .jpg"),
        (f"OUT photo.png {BOX} -o x.png --mask none/x.png", "cannot write none/x.png"),
        (f"OUT photo.png {BOX} -o x.png --mask x.png", "--output and --mask are both x.png"),
        (f"OUT photo.png {BOX} -o ./photo.png", "is the photograph itself"),
        (f"OUT none.png {BOX} -o x.png", "no file none.png"),
        (f"none photo.png {BOX} -o x.png", "no folder none; expected the output folder of structsam export"),
        (f"OUT photo.png {BOX} -o x.png --runner npu", "runner 'npu' is unknown, expected one of cpu"),
        ("OUT photo.png --box 400 80 100 360 -o x.png", "is turned around"),
        ("OUT photo.png --point 700 5 -o x.png", "lies outside the picture of 600 x 400 pixels"),
        ("OUT photo.png --point nan 5 -o x.png", "holds NaN or infinity"),
        (f"OUT photo.png --everything {BOX} -o x.png", "--everything came with prompts; give either"),
        ("OUT photo.png --everything --multimask -o x.png", "--everything came with --multimask"),
        (f"OUT photo.png {BOX} --points-per-side 9 -o x.png", "--points-per-side goes with --everything"),
        (f"OUT photo.png {BOX} --annotations a.json -o x.png", "--annotations goes with --everything"),
        (
            "OUT photo.png --everything --annotations a.txt -o x.png",
            "a.txt: '.txt' is not .json",
        ),
        (
            "OUT photo.png --box 700 0 800 9 --box 9 9 1 1 -o x.png",
            "none of 2 boxes is right: the box (700, 0",
        ),
        ("OUT photo.png --box 0 0 1e308 9 -o x.png", "box holds 1e+308, expected numbers from -1e+09"),
        (
            "OUT photo.png --everything --points-per-side 30000 -o x.png",
            "points_per_side is larger than",
        ),
        ("OUT photo.png --everything --points-per-side 0 -o x.png", "points_per_side is 0, expected a whole"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(
    line: str, message: str, predict: Predict, photo: Path
) -> None:
    code, out, err = predict(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(photo.parent.iterdir()) == [photo]


def test_help(predict: Predict) -> None:
    code, out, _ = predict("--help")
    assert code == 0
    assert "--box" in out


def test_what_cannot_be_done_is_said_before_the_work(predict: Predict, photo: Path) -> None:
    """Before a model is loaded: there is none."""
    Image.new("L", (16_400, 20)).save(photo.parent / "wide.png")
    ended = predict(f"none wide.png {BOX} -o overlay.webp")
    assert ended[::2] == (2, ended[2])
    assert ended[2].startswith("error: cannot write overlay.webp: WEBP cannot hold 16400 x 20 pixels")
    ended = predict(f"none photo.png {BOX} -o overlay.h5")
    assert ended[2].startswith("error: cannot write overlay.h5: HDF5 cannot hold 600 x 400 pixels")
    ended = predict(f"none photo.png {BOX} -o overlay.png --mask mask.jpg")
    assert ended[2] == "error: cannot write mask.jpg: a .jpg would not keep 0 and 255 as they are; use .png\n"
    ended = predict(f"none photo.png {BOX} -o overlay.png --max-pixels 239999")
    assert ended == (
        2,
        "",
        "error: photo.png is too large: 600 x 400 pixels, more than 239999; make it smaller, or allow as many"
        " (--max-pixels 240000, in Python max_pixels)\n",
    )
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "wide.png"}


def test_a_picture_that_is_stretched_is_told(predict: Predict, photo: Path) -> None:
    twelve = np.linspace(0, 4095, 20_000).astype(np.uint16).reshape(100, 200)
    Image.fromarray(twelve).save(photo.parent / "twelve.png")
    code, _, err = predict("OUT twelve.png --box 10 10 80 80 -o overlay.png --max-pixels 20000")
    assert (code, err) == (
        0,
        "note: twelve.png has uint16 pixels with values from 0 to 4095; they are stretched to 0..255\n",
    )
