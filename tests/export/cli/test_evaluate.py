"""structsam evaluate as a person calls it, on a small SAM and tiny datasets."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from structsam_export.merging.registry import METHODS
from structsam_export.models.checkpoints import load_sam
from structsam_runtime.cli.program import structsam

COCO = Path(__file__).parents[3] / "../shared/data/coco-train"
TINY = "--arch two --random-weights --image-size 224"
FOLDER = "--dataset folder --root folder"
PANOPTIC = "--dataset coco-panoptic --root coco"
pytestmark = [pytest.mark.usefixtures("tiny"), pytest.mark.xdist_group("evaluate")]

ALL = [f"{method}-r{rate}" for method in METHODS for rate in (35, 55)]

Ended = tuple[int | str | None, str, str]
Evaluate = Callable[[str], Ended]


def pictures() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Photographs with a mask each: something, one pixel, nothing, and up to the border."""
    masks = {"astronaut": (slice(10, 90), slice(60, 130)), "coffee": (slice(70, 71), slice(70, 71))}
    masks |= {"cat": (slice(0, 0), slice(0, 0)), "rocket": (slice(50, None), slice(None))}
    loaded = {"astronaut": skimage.data.astronaut(), "coffee": skimage.data.coffee()}
    loaded |= {"cat": skimage.data.chelsea(), "rocket": skimage.data.coffee()[::-1].copy()}
    found = {}
    for name, place in masks.items():
        photo = Image.fromarray(loaded[name]).resize((150, 100))
        mask = np.zeros((100, 150), np.bool_)
        mask[place] = True
        found[name] = np.asarray(photo), mask
    return found


def write_folder(root: Path) -> None:
    """In the layout of `folder`."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for name, (photo, mask) in pictures().items():
        Image.fromarray(photo).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")


def write_panoptic(root: Path) -> None:
    """In COCO's layout: two pictures with a thing of 50 x 50 and one of 32 x 32 pixels, stuff and a crowd."""
    for folder in ("annotations/panoptic_val2017", "val2017"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number, name in enumerate(("astronaut", "coffee"), 1):
        Image.fromarray(pictures()[name][0]).save(root / "val2017" / f"{number:012}.jpg")
        ids = np.full((100, 150), 4, np.uint8)
        ids[5:55, 10:60], ids[60:92, 100:132], ids[:40, 90:] = 1, 2, 3
        colours = np.stack([ids, 0 * ids, 0 * ids], -1)
        Image.fromarray(colours).save(root / "annotations/panoptic_val2017" / f"{number:012}.png")
        images.append({"id": number, "file_name": f"{number:012}.jpg"})
        listed = [(1, 18, 0), (2, 1, 0), (3, 1, 1), (4, 119, 0)]
        segments = [{"id": i, "category_id": category, "iscrowd": crowd} for i, category, crowd in listed]
        annotations.append({"image_id": number, "file_name": f"{number:012}.png", "segments_info": segments})
    categories = [{"id": 1, "isthing": 1}, {"id": 18, "isthing": 1}, {"id": 119, "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds both."""
    root = tmp_path_factory.mktemp("datasets")
    write_folder(root / "folder")
    write_panoptic(root / "coco")
    return root


@pytest.fixture
def desk(tmp_path: Path, datasets: Path) -> Path:
    """An empty folder beside the datasets."""
    for name in ("folder", "coco"):
        (tmp_path / name).symlink_to(datasets / name)
    return tmp_path


def call(desk: Path, line: str, capsys: pytest.CaptureFixture[str]) -> Ended:
    """The command in this process, in a folder: exit code, stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        with pytest.raises(SystemExit) as ended:
            structsam(["evaluate", *line.split()])
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


@pytest.fixture
def command(desk: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """`command("--dataset ...")` in the desk."""
    return lambda line: call(desk, line, capsys)


def lines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every JSON line by file."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in folder.glob("*.jsonl")
    }


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When every file of results was written, and what it holds."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.jsonl")}


def without_times(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {key: value for key, value in line.items() if key not in ("seconds", "peak_bytes")}
            for line in made
        ]
        for name, made in found.items()
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, datasets: Path) -> Path:
    """Results of all methods on both datasets, in `results`; copied by those who change them."""
    desk = tmp_path_factory.mktemp("done")
    for name in ("folder", "coco"):
        (desk / name).symlink_to(datasets / name)
    for dataset in (FOLDER, PANOPTIC):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(desk)
            with pytest.raises(SystemExit) as ended:
                structsam(["evaluate", *f"{dataset} {TINY} -o results".split()])
            assert ended.value.code == 0
    return desk / "results"


@pytest.fixture
def again(done: Path, desk: Path) -> Path:
    """A copy of the results on the desk."""
    shutil.copytree(done, desk / "results")
    return desk / "results"


@pytest.mark.export
def test_all_methods_on_both_datasets(done: Path) -> None:
    assert sorted(path.name for path in done.iterdir()) == [
        "coco-panoptic-val2017", "coco-panoptic-val2017.png", "folder-all", "folder-all.png", "tables.csv",
        "tables.md",
    ]  # fmt: skip
    for folder, prompts in (("folder-all", [1, 0, 1, 1]), ("coco-panoptic-val2017", [2, 2])):
        found = lines(done / folder)
        truth = found.pop("truth")
        assert set(found) == {"unmerged", *ALL}
        assert list(json.loads((done / folder / "run.json").read_text())["models"]) == ["unmerged", *ALL]
        for made in found.values():
            assert [line["picture"] for line in made] == [line["picture"] for line in truth]
            assert [len(line["objects"]) for line in made] == prompts
            assert [line["seconds"] is not None for line in made] == [bool(count) for count in prompts]
        with Image.open(done / f"{folder}.png") as picture:
            assert picture.size == (1800, 600)
    rows = list(csv.DictReader(io.StringIO((done / "tables.csv").read_text())))
    assert len(rows) == 2 * (1 + len(ALL))
    assert {row["gmac"] for row in rows if row["model"] == "tome-r55"} != {"0.0"}
    text = (done / "tables.md").read_text()
    assert "coco-panoptic-val2017: 2 pictures, 4 box prompts.\n" in text
    assert "Left out: pictures without a prompt (1), objects without pixels (1)." in text
    assert "**Weights are random" in text
    assert "| ToMe | 0.55 | 50.0% / 50.0% |" in text
    assert "nan" not in text


@pytest.mark.export
def test_the_tables_match_the_results(done: Path) -> None:
    """The crowd is in the truth and not prompted; the unmerged model agrees with itself, others less."""
    found = lines(done / "coco-panoptic-val2017")
    assert [[one["crowd"] for one in line["objects"]] for line in found["truth"]] == 2 * [
        [False, False, True]
    ]
    assert [[one["category"] for one in line["objects"]] for line in found["truth"]] == 2 * [[18, 1, 1]]
    assert all(one["agreement"] == 1 for line in found["unmerged"] for one in line["objects"])
    for name in ALL:
        values = [one["agreement"] for line in found[name] for one in line["objects"]]
        assert 0.3 < np.mean(values) < 1


@pytest.mark.export
def test_again_nothing_is_computed_again(again: Path, command: Evaluate) -> None:
    before, tables = stamps(again / "folder-all"), (again / "tables.md").read_text()
    code, out, err = command(f"{FOLDER} {TINY} -o results")
    assert code == 0, err
    assert out == tables + "\n"
    assert stamps(again / "folder-all") == before
    assert (again / "tables.md").read_text() == tables


@pytest.mark.export
def test_a_stopped_run_is_continued(again: Path, command: Evaluate) -> None:
    """In the middle of a line of one model, before another, and in the middle of the annotations."""
    folder = again / "folder-all"
    expected = without_times(lines(folder))
    kept = stamps(folder)
    for name, share in (("tome-r35", 0.6), ("truth", 0.9)):
        path = folder / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    (folder / "pitome-r55.jsonl").unlink()
    (again / "tables.md").unlink()
    code, _, err = command(f"{FOLDER} {TINY} -o results")
    assert code == 0, err
    found = without_times(lines(folder))
    for name, made in expected.items():
        assert {line["picture"]: line for line in found[name]} == {line["picture"]: line for line in made}
    assert stamps(folder)["tome-r35.jsonl"][1].startswith(kept["tome-r35.jsonl"][1].split(b"\n")[0])
    assert (again / "tables.md").exists()


@pytest.mark.export
def test_a_rate_can_be_added(again: Path, command: Evaluate) -> None:
    before = stamps(again / "folder-all")
    code, out, err = command(
        f"{FOLDER} {TINY} -o results --method structsam --rate 0.45 --method bipartite:reduction=replace"
    )
    assert code == 0, err
    after = stamps(again / "folder-all")
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [
        "bipartite-r45-replace-reduction.jsonl",
        "structsam-r45.jsonl",
    ]
    rows = [line.split(" | ")[:2] for line in out.splitlines() if line.startswith("| StructSAM | ")]
    assert rows[:3] == [["| StructSAM", rate] for rate in ("0.35", "0.45", "0.55")]


@pytest.mark.export
def test_pictures_can_be_added_and_until_then_fewer_count(desk: Path, command: Evaluate) -> None:
    line = f"{FOLDER} {TINY} -o results --rate 0.5"
    assert command(f"{line} --method tome --limit 3")[0] == 0
    code, out, _ = command(f"{line} --method algm --limit 1")
    assert code == 0
    assert "1 pictures, 1 box prompts. Left out: pictures without results of every model (2)." in out
    code, out, _ = command(f"{line} --method tome --method algm")
    assert code == 0
    assert "folder-all: 3 pictures, 3 box prompts." in out
    found = lines(desk / "results/folder-all")
    assert {len(made) for made in found.values()} == {4}


@pytest.mark.export
@pytest.mark.parametrize("dataset", [FOLDER, PANOPTIC])
def test_other_weights_in_the_same_folder_are_refused(desk: Path, command: Evaluate, dataset: str) -> None:
    """Whichever dataset they are evaluated on: rows would mix them."""
    assert command(f"{FOLDER} {TINY} -o results --method tome --rate 0.5 --limit 1")[0] == 0
    before = {path: path.read_bytes() for path in (desk / "results").rglob("*.*")}
    torch.save(load_sam("two", 224, None, random_weights=True).state_dict(), desk / "mine.pth")
    code, out, err = command(
        f"{dataset} --arch two --image-size 224 --checkpoint mine.pth -o results --method tome"
    )
    assert (code, out) == (2, "")
    message = err.splitlines()[-1]
    assert message.startswith(
        "error: results/folder-all has results with the weights random, seed 0, and this run"
    )
    assert message.endswith("; choose another --output")
    assert {path: path.read_bytes() for path in (desk / "results").rglob("*.*")} == before


@pytest.mark.export
def test_an_interruption_leaves_what_was_done(
    desk: Path, command: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from structsam_runtime.evaluation import run

    look, seen = run.look, list[str]()

    def interrupted(picture: Any, *more: Any) -> Any:
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(picture.name)
        return look(picture, *more)

    monkeypatch.setattr(run, "look", interrupted)
    line = f"{FOLDER} {TINY} -o results --method tome --rate 0.5"
    code, out, err = command(line)
    assert (code, out, err.splitlines()[-1]) == (130, "", "interrupted")
    monkeypatch.undo()
    found = lines(desk / "results/folder-all")
    assert (len(found["unmerged"]), len(found["tome-r50"])) == (4, 1)
    assert command(line)[0] == 0
    assert len(lines(desk / "results/folder-all")["tome-r50"]) == 4


# Exports


@pytest.fixture(scope="module")
def export(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small SAM with merged tokens, in a folder of this name."""
    return shutil.copytree(exported(rate=0.35, image_size=224), tmp_path_factory.mktemp("out") / "export")


@pytest.mark.export
def test_an_export_beside_its_model_in_pytorch(export: Path, again: Path, command: Evaluate) -> None:
    """The same masks to a few pixels, in the same tables."""
    before = stamps(again / "folder-all")
    code, out, err = command(f"{export} {FOLDER} -o results --runner cpu")
    assert code == 0, err
    found = lines(again / "folder-all")
    assert {
        name: stamps(again / "folder-all")[name] for name in before
    } == before  # unmerged PyTorch was there
    for made, expected in zip(found["export-cpu"], found["structsam-r35"], strict=True):
        for one, other in zip(made["objects"], expected["objects"], strict=True):
            assert one["agreement"] == pytest.approx(other["agreement"], abs=0.02)
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)
    assert "| StructSAM, cpu fp32 | 0.35 |" in out
    assert "| StructSAM, pytorch | 0.35 |" in out
    assert [line for line in err.splitlines() if not line.startswith("✓")] == []


@pytest.mark.export
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--method tome", "leave --method out: the exports define these"),
        ("--rate 0.5 --ablations", "leave --rate and --ablations out"),
        ("--arch vit_b", "leave --arch out"),
        ("--family medsam", "leave --family out"),
        ("--random-weights --image-size 224", "leave --random-weights and --image-size out"),
        ("--runner gpu", "runner 'gpu' is unknown"),
        ("--runner tensorrt", "error: "),
    ],
)
def test_usage_errors_with_exports(
    export: Path, desk: Path, command: Evaluate, line: str, message: str
) -> None:
    code, out, err = command(f"{export} {FOLDER} -o results {line}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (desk / "results").exists()


# Mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{FOLDER} {TINY}", "Missing option '--output'"),
        ("--dataset folder -o results", "Missing option '--root'"),
        (f"--dataset nose --root folder {TINY} -o results", "no dataset nose; expected one of dis5k"),
        (f"--dataset folder --root gone {TINY} -o results", "no folder gone; expected the folder of"),
        (f"--dataset dis5k --root folder {TINY} -o results", "looked in folder or its DIS5K for DIS-VD/im"),
        (f"{FOLDER} --split val {TINY} -o results", "folder has no split val; expected one of all"),
        (f"{FOLDER} {TINY} -o results --limit 0", "--limit"),
        (f"{FOLDER} {TINY} -o results --limit 1 --last 1", "--limit and --last exclude each other"),
        (f"{FOLDER} {TINY} -o results --method nose", "--method nose is unknown; expected one of structsam"),
        (f"{FOLDER} {TINY} -o results --rate 0", "--rate 0 is the unmerged model"),
        (f"{FOLDER} {TINY} -o results --rate 0.9", "the rate of window blocks is 0.9"),
        (f"{FOLDER} {TINY} -o results --runner cpu", "leave --runner out: it applies to exports only"),
        (f"{FOLDER} --arch two --image-size 8 -o results", "--image-size 8 is not a multiple of 16"),
        (f"{FOLDER} --arch two --checkpoint gone.pth -o results", "no checkpoint at gone.pth"),
        (f"gone {FOLDER} -o results", "no folder gone; expected the output folder of structsam export"),
        pytest.param(
            f"{FOLDER} {TINY} -o folder/images/cat.png",
            "cannot write folder/images/cat.png/folder-all: Not a",
            marks=pytest.mark.export,  # it is seen when all models are ready
        ),
    ],
)
def test_usage_errors_print_one_line_and_write_nothing(
    line: str, message: str, command: Evaluate, desk: Path
) -> None:
    code, out, err = command(line)
    assert (code, out) == (2, "")
    *steps, last = err.splitlines()
    assert all(step.startswith("✓") for step in steps)
    assert last.startswith("error: ")
    assert message in last
    assert not (desk / "results").exists()


def test_a_picture_that_is_broken_is_one_line(command: Evaluate, desk: Path, tmp_path: Path) -> None:
    shutil.copytree(desk / "folder", desk / "mine")
    (desk / "mine/images/astronaut.png").write_bytes(b"broken")
    code, _, err = command(f"--dataset folder --root mine {TINY} -o results --method tome --rate 0.5")
    assert code == 2
    assert "astronaut.png is not a picture" in err.splitlines()[-1]


def test_help(command: Evaluate) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "--ablations" in out


@pytest.mark.export
@pytest.mark.skipif(not COCO.exists(), reason="the annotated COCO pictures are not there")
def test_real_annotations_run_with_the_ablations(command: Evaluate, desk: Path) -> None:
    line = f"--dataset coco-panoptic --split train2017 --root {os.path.relpath(COCO.resolve(), desk)} {TINY}"
    code, out, err = command(f"{line} -o results --last 1 --method structsam --ablations --rate 0.55")
    assert code == 0, err
    assert "| Hybrid (ours), spread1.5 | 0.55 | 54.6% / 54.6% |" in out
    assert "| StructSAM, only in global blocks | 0.55 | 0.0% / 55.1% |" in out
    assert "| Rand-Cell | 0.55 | 55.1% / 55.1% |" in out
    assert "coco-panoptic-train2017: 1 pictures" in out
