"""structsam batch as a person calls it, in this process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from pycocotools.mask import decode

from structsam_runtime import Embedding, Predictor
from structsam_runtime.batch import segment as batch
from structsam_runtime.predict.image import read_image

BOXES = {
    "coffee.png": {"boxes": [[100, 80, 400, 360], [20, 30, 200, 220]]},
    "cats/chelsea.jpg": {"boxes": [[100.5, 20, 400, 280]]},
    "astronaut.png": {"boxes": []},
}

Ended = tuple[int | str | None, str, str]
Batch = Callable[[str], Ended]
RunCommand = Callable[[str, str], Ended]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, NDArray[np.uint8]]) -> Path:
    """A folder of three pictures."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "cats").mkdir()
    for name in BOXES:
        Image.fromarray(photos[Path(name).stem]).save(folder / name)
    return folder


@pytest.fixture
def desk(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder one is in, with a folder of three pictures and a file of boxes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "images")
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    return tmp_path


@pytest.fixture
def command(export_folder: Path, run_command: RunCommand, in_this_process: None) -> Batch:
    """Runs the command where patches reach it: exit code, stdout, stderr."""

    def call(line: str) -> Ended:
        return run_command("batch", line.replace("OUT", str(export_folder)))

    return call


def results(folder: Path) -> dict[str, Any]:
    """What is in every .json of a folder."""
    found = {path: json.loads(path.read_text()) for path in folder.rglob("*.json")}
    return {path.relative_to(folder).as_posix(): content for path, content in found.items()}


IN_BOXES = "images -o masks --model OUT --prompts boxes.json"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools and NumPy 2
def test_masks_in_boxes_are_those_of_the_predictor(command: Batch, desk: Path, export_folder: Path) -> None:
    code, out, _ = command(IN_BOXES)
    assert (code, out) == (0, "masks: 3 pictures segmented, 0 done before, 0 failed\n")
    made = results(desk / "masks")
    assert made.keys() == {f"{name}.json" for name in BOXES} | {"batch.json"}
    with Predictor.load(export_folder) as predictor:
        for name, asked in BOXES.items():
            found, image = made[f"{name}.json"], read_image(desk / "images" / name)
            assert (found["image"], found["height"], found["width"]) == (name, *image.shape[:2])
            assert [one["box"] for one in found["masks"]] == asked["boxes"]
            if asked["boxes"]:
                predictor.set_image(image)
                masks, iou, _ = predictor.predict(box=asked["boxes"], multimask_output=False)
                for one, mask, quality in zip(found["masks"], masks[:, 0], iou[:, 0], strict=True):
                    np.testing.assert_array_equal(decode(one["segmentation"]), mask)
                    assert one["predicted_iou"] == float(quality)
                    assert one["area"] == mask.sum()


def test_all_boxes_of_a_picture_are_one_run_of_the_decoder(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, **prompts: Any) -> Any:
        asked.append(len(prompts["box"]))
        return predict(self, **prompts)

    monkeypatch.setattr(Predictor, "predict", counted)
    many = [[x, 10, x + 50, 60] for x in range(70)]
    (desk / "boxes.json").write_text(json.dumps(BOXES | {"astronaut.png": {"boxes": many}}))
    assert command(IN_BOXES)[0] == 0
    assert asked == [64, 6, 1, 2]  # an engine takes 64
    assert [one["box"] for one in results(desk / "masks")["astronaut.png.json"]["masks"]] == many


@pytest.mark.parametrize("prompts", ["", "--prompts boxes.json"])
def test_embeddings_are_kept(
    command: Batch, desk: Path, export_folder: Path, monkeypatch: pytest.MonkeyPatch, prompts: str
) -> None:
    monkeypatch.setattr(batch, "AutomaticMaskGenerator", Everything)
    assert command(f"images -o masks --model OUT --embeddings {prompts}")[0] == 0
    with Predictor.load(export_folder) as predictor:
        for name in BOXES:
            predictor.set_image(read_image(desk / "images" / name))
            kept = Embedding.load(desk / "masks" / f"{name}.npz")
            np.testing.assert_array_equal(kept.features, predictor.embedding.features)
            assert (kept.frame, kept.weights) == (predictor.frame, predictor.weights)


class Everything:
    """In place of everything mode: one mask, which says what it was asked for."""

    quality = 0.5

    def __init__(self, predictor: Predictor, output_mode: str, **settings: float) -> None:
        assert output_mode == "coco_rle"
        self.predictor, self.points = predictor, settings.pop("points_per_side")
        self.lower = bool(settings)

    def generate(self, image: NDArray[np.uint8], embedding: Embedding | None) -> list[dict[str, Any]]:
        self.predictor.set_image(image)
        self.predictor.reset_image()
        mask = {"area": self.points, "predicted_iou": self.quality, "bbox": list(image.shape)}
        return [] if self.quality == 0 and not self.lower else [mask]


def test_pictures_without_masks_are_told_with_what_finds_more(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AutomaticMaskGenerator", Everything)
    monkeypatch.setattr(Everything, "quality", 0.0)
    said = "pictures without masks: 3; lower --pred-iou-thresh or --stability-score-thresh to see more, in "
    code, _, err = command("images -o masks --model OUT")
    assert code == 0
    assert said in err
    assert said not in command("images -o masks --model OUT")[2]
    lower = "--model OUT --pred-iou-thresh 0.3 --stability-score-thresh 0.5"
    code, _, err = command(f"images -o masks {lower}")
    assert code == 2
    assert "pred_iou_thresh" in err
    code, _, err = command(f"images -o more {lower}")
    assert (code, said in err) == (0, False)
    assert results(desk / "more")["coffee.png.json"]["masks"]


def test_everything_is_found_where_nothing_is_prompted(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AutomaticMaskGenerator", Everything)
    assert command("images -o masks --model OUT --points-per-side 7")[0] == 0
    status = (desk / "images" / "cats" / "chelsea.jpg").stat()
    assert results(desk / "masks")["cats/chelsea.jpg.json"] == {
        "image": "cats/chelsea.jpg",
        "input": {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
        "height": 300,
        "width": 451,
        "masks": [{"area": 7, "predicted_iou": 0.5, "bbox": [300, 451, 3]}],
    }
    monkeypatch.setattr(Everything, "quality", float("nan"))
    code, _, err = command("images -o others --model OUT")
    assert code == 3
    assert "failed: coffee.png: the model gives NaN or infinity for coffee.png" in err


def test_a_rerun_does_what_is_missing(command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(IN_BOXES)
    before = results(desk / "masks")
    (desk / "masks" / "cats" / "chelsea.jpg.json").unlink()
    kept = desk / "masks" / "coffee.png.json"
    written = kept.stat().st_mtime_ns
    assert command(IN_BOXES)[:2] == (0, "masks: 1 pictures segmented, 2 done before, 0 failed\n")
    assert kept.stat().st_mtime_ns == written
    kept.write_text("")
    Image.new("RGB", (701, 300)).save(desk / "images" / "cats" / "chelsea.jpg")  # another of that name
    assert command(IN_BOXES)[:2] == (0, "masks: 2 pictures segmented, 1 done before, 0 failed\n")
    changed = results(desk / "masks")
    assert changed.pop("cats/chelsea.jpg.json")["width"] == 701
    before.pop("cats/chelsea.jpg.json")
    assert changed == before

    def load(*_: Any) -> None:
        raise AssertionError("no model is needed where nothing is left to do")

    monkeypatch.setattr(Predictor, "load", load)
    assert command(IN_BOXES)[:2] == (0, "masks: 0 pictures segmented, 3 done before, 0 failed\n")


def test_an_interruption_keeps_what_is_done(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = batch.read_image

    def interrupted(path: Path, *rest: Any) -> Any:
        if path.name == "coffee.png":  # the last of the three
            raise KeyboardInterrupt
        return read(path, *rest)

    monkeypatch.setattr(batch, "read_image", interrupted)
    code, _, err = command(IN_BOXES)
    assert (code, err.splitlines()[-1]) == (130, "interrupted")
    assert results(desk / "masks").keys() == {"astronaut.png.json", "cats/chelsea.jpg.json", "batch.json"}
    assert not [path for path in (desk / "masks").rglob("*") if path.name.startswith(".")]


def test_pictures_that_fail_are_told_and_the_rest_is_done(command: Batch, desk: Path) -> None:
    whole = (desk / "images" / "cats" / "chelsea.jpg").read_bytes()
    (desk / "images" / "cats" / "chelsea.jpg").write_bytes(whole[: len(whole) // 2])  # the middle one
    (desk / "images" / "bad.png").write_text("no picture")
    asked = BOXES | {"bad.png": {"boxes": []}, "astronaut.png": {"boxes": [[600, 0, 700, 9]]}}
    (desk / "boxes.json").write_text(json.dumps(asked))
    code, out, err = command(IN_BOXES)
    assert (code, out) == (3, "masks: 1 pictures segmented, 0 done before, 3 failed\n")
    assert results(desk / "masks").keys() == {"coffee.png.json", "batch.json"}
    reported = [json.loads(line) for line in (desk / "masks" / "errors.jsonl").read_text().splitlines()]
    told = {one["image"]: one["error"] for one in reported}
    assert [one["stage"] for one in reported] == ["segment", "read", "read"]
    assert list(told) == ["astronaut.png", "bad.png", "cats/chelsea.jpg"]
    assert "the box (600, 0, 700, 9) lies outside the picture of 512 x 512 pixels" in told["astronaut.png"]
    assert "not a picture" in told["bad.png"]
    assert "cannot be read as a picture" in told["cats/chelsea.jpg"]
    assert err.splitlines() == [f"failed: {image}: {error}" for image, error in told.items()]

    code, out, _ = command(IN_BOXES)  # what failed is tried again
    assert (code, out) == (3, "masks: 0 pictures segmented, 1 done before, 3 failed\n")
    (desk / "images" / "cats" / "chelsea.jpg").write_bytes(whole)
    Image.new("RGB", (701, 50)).save(desk / "images" / "astronaut.png")
    Image.new("RGB", (50, 50)).save(desk / "images" / "bad.png")
    assert command(IN_BOXES)[:2] == (0, "masks: 3 pictures segmented, 1 done before, 0 failed\n")
    assert not (desk / "masks" / "errors.jsonl").exists()


def test_a_wrong_box_fails_alone(command: Batch, desk: Path) -> None:
    right = [[100, 80, 400, 260], [10, 20, 60, 90]]
    wrong = [[600, 0, 700, 9], [1, 2, 3], [9, 9, 1, 1], [0, 0, float("nan"), 5], [0, 0, 9, True]]
    asked = BOXES | {"astronaut.png": {"boxes": [right[0], *wrong, right[1]]}}
    (desk / "boxes.json").write_text(json.dumps(asked))
    code, out, err = command(IN_BOXES)
    assert (code, out) == (3, "masks: 3 pictures segmented, 0 done before, 0 failed\n")
    assert err == (
        "astronaut.png: 5 of 7 boxes have no mask: box 2: the box (600, 0, 700, 9) lies outside the picture "
        "of 512 x 512 pixels; box 3: the box is [1, 2, 3], expected [x0, y0, x1, y1]; box 4: the box "
        "(9, 9, 1, 1) is turned around, expected x0 <= x1 and y0 <= y1; ...\n"
    )
    made = results(desk / "masks")
    assert [one["box"] for one in made["astronaut.png.json"]["masks"]] == right
    told = made["astronaut.png.json"]["errors"]
    assert [one["box"] for one in told] == [2, 3, 4, 5, 6]
    assert told[3]["error"] == "box holds NaN or infinity, expected finite numbers"
    assert "errors" not in made["coffee.png.json"]
    assert command(IN_BOXES) == (3, out.replace("3 pictures segmented, 0", "0 pictures segmented, 3"), err)


def test_what_is_removed_meanwhile_is_not_counted(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(IN_BOXES)
    (desk / "masks" / "coffee.png.json").unlink()
    read = batch.read_image

    def removing(path: Path, *rest: Any) -> Any:
        shutil.rmtree(desk / "masks")
        return read(path, *rest)

    monkeypatch.setattr(batch, "read_image", removing)
    code, out, err = command(IN_BOXES)
    assert (code, out) == (3, "masks: 1 pictures segmented, 0 done before, 2 failed\n")
    assert err.count("its result is no longer there, or the picture has changed since; run again") == 2
    errors = [json.loads(line) for line in (desk / "masks" / "errors.jsonl").read_text().splitlines()]
    assert [(one["image"], one["stage"]) for one in errors] == [
        ("astronaut.png", "write"),
        ("cats/chelsea.jpg", "write"),
    ]
    monkeypatch.setattr(batch, "read_image", read)
    assert command(IN_BOXES)[:2] == (0, "masks: 2 pictures segmented, 1 done before, 0 failed\n")


def test_names_obey_nobody(command: Batch, desk: Path) -> None:
    (desk / "images" / "x\nerror: forged\n.png").write_text("no picture")
    code, out, err = command("images -o masks --model OUT --points-per-side 1")
    assert (code, out) == (3, "masks: 3 pictures segmented, 0 done before, 1 failed\n")
    assert len([line for line in err.splitlines() if "forged" in line]) == 1
    assert not any(line.startswith("error") for line in err.splitlines())


def test_attempts_that_ended_with_their_process_are_told(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("structsam_runtime.batch.attempts.forget", lambda *_: None)
        patch.setattr(batch, "read_image", dead)
        command(IN_BOXES)
    code, out, err = command(IN_BOXES)
    assert (code, out) == (0, "masks: 3 pictures segmented, 0 done before, 0 failed\n")
    assert err == "astronaut.png: a process died while it worked on it; attempt 2 of 3\n"


def test_what_failed_is_noted_where_the_run_is_interrupted(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *_: Any) -> Any:
        raise MemoryError if path.name == "astronaut.png" else KeyboardInterrupt

    monkeypatch.setattr(batch, "read_image", read)
    assert command(IN_BOXES)[0] == 130
    assert json.loads((desk / "masks" / "errors.jsonl").read_text()) == {
        "image": "astronaut.png",
        "stage": "read",
        "error": "MemoryError",
    }


def test_the_program_works_in_a_process_of_its_own(desk: Path, export_folder: Path) -> None:
    line = f"-m structsam_runtime batch images -o masks --model {export_folder} --prompts boxes.json"
    done = subprocess.run([sys.executable, *line.split()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "masks: 3 pictures segmented, 0 done before, 0 failed\n"


def test_a_full_disk_ends_the_run(command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(self: Path, text: str, **kwargs: Any) -> int:
        if "chelsea.jpg" in text:
            raise OSError(28, "No space left on device")
        return write(self, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = command(IN_BOXES)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: cannot write ")
    assert err.splitlines()[-1].endswith("No space left on device")
    assert results(desk / "masks").keys() == {"astronaut.png.json", "batch.json"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("none -o masks --model OUT", "no folder none; expected one with pictures"),
        ("images/cats/.. -o images/masks --model OUT", "is inside"),
        ("images -o masks --model images", "expected the output folder of structsam export"),
        ("images -o masks", "Missing option '--model'"),
        ("images -o masks --model OUT --prompts none.json", "no file none.json"),
        (f"{IN_BOXES} --points-per-side 8", "drop one of them"),
        (f"{IN_BOXES} --runner npu", "runner 'npu' is unknown"),
        ("images -o masks --model OUT --workers 2", "--workers needs --address"),
        ("images -o masks --model OUT --workers 0 --address local", "--workers"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(command: Batch, desk: Path, line: str, message: str) -> None:
    code, out, err = command(line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err
    assert not (desk / "masks").exists()


def test_another_model_in_the_same_folder_is_one_line(
    command: Batch, desk: Path, make_export: Callable[[Path], Path]
) -> None:
    command(IN_BOXES)
    (desk / "other").mkdir()
    manifest = make_export(desk / "other") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stand-in", "model"', '"another", "model"'))
    code, out, err = command("images -o masks --model other --prompts boxes.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "was begun with model stand-in, not another; choose another folder" in err


def test_ray_that_is_not_installed_is_told(
    command: Batch, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    code, _, err = command(f"{IN_BOXES} --address local")
    assert (code, err.count("\n")) == (2, 1)
    assert 'pip install "structsam[cluster]"' in err


def test_a_folder_of_all_sorts(desk: Path, command: Batch, photos: dict[str, NDArray[np.uint8]]) -> None:
    """Odd pictures are segmented, bad ones fail alone, what is none is counted, and nothing is started."""
    images = desk / "images"
    rgb = Image.fromarray(photos["coffee"][:40, :60])
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.X_RESOLUTION] = 2, "72"
    rgb.save(images / "odd.jpg", exif=b"Exif\0\0II\x2a\0\x08\0\0\0" + tags.tobytes(8))
    rgb.save(images / "moving.gif", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save(images / "drawing.eps")
    (images / "drawing.eps").rename(images / "script.jpg")
    rgb.save(images / "whole.dds")
    (images / "cut.jpg").write_bytes((images / "whole.dds").read_bytes()[:200])
    (images / "notes.txt").write_text("no picture")
    (images / "loop").symlink_to(images)
    for number in range(2):
        deep = np.linspace(0, 999, 2400).astype(np.uint16).reshape(40, 60)
        Image.fromarray(deep).save(images / f"deep{number}.png")
    code, out, err = command("images -o masks --model OUT --points-per-side 1 --max-pixels 200000")
    assert code == 3
    assert out == "masks: 6 pictures segmented, 0 done before, 4 failed\n"
    assert err.splitlines()[:2] == [
        "skipped 1 (not named like pictures): notes.txt",
        "skipped 1 (links to folders that are listed already): loop",
    ]
    said = [line for line in err.splitlines() if line.startswith("note: ")]
    assert [line.rpartition("/")[2].partition(" ")[0] for line in said] == ["deep0.png", "moving.gif"]
    lines = (desk / "masks/errors.jsonl").read_text().splitlines()
    told = {line["image"]: line["error"] for line in map(json.loads, lines)}
    assert list(told) == ["astronaut.png", "coffee.png", "cut.jpg", "script.jpg"]
    for name, message in {
        "coffee.png": "600 x 400 pixels, more than 200000",
        "cut.jpg": "cannot be read as a picture",
        "script.jpg": "is PostScript",
    }.items():
        assert message in told[name]
