"""structsam tune as a person calls it, on a small SAM and a few pictures."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from structsam_export import tune
from structsam_export.config import ExportConfig
from structsam_export.merging.registry import MethodSpec
from structsam_export.pipeline import tuned as told_of
from structsam_export.recipe import BlockRecipe, Recipe
from structsam_export.tuning.latency import Part
from structsam_export.tuning.stopwatch import Stopwatch
from structsam_runtime.build import BuildError

pytestmark = [pytest.mark.usefixtures("tiny", "few"), pytest.mark.xdist_group("tune")]

MODEL = "--arch tiny --random-weights --image-size 224"
LOOSE = f"--images photos -o out {MODEL} --budget 0.1"
FILES = ["measurements.jsonl", "recipe.json", "report.html"]

Ended = tuple[int | str | None, str, str]
Command = Callable[[str], Ended]


@pytest.fixture(scope="module", autouse=True)
def few() -> Any:
    """Few settings, so that a search is a matter of a second."""
    method = MethodSpec("adjacent")
    settings = (BlockRecipe(method, 0.25), BlockRecipe(method, 0.7, merge_mlp=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "SETTINGS", settings)
        patch.setattr(tune, "UNIFORM", settings[:1])
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four photographs, one of them twice, and a text."""
    root = tmp_path_factory.mktemp("desk")
    (root / "photos").mkdir()
    coffee, astronaut = skimage.data.coffee(), skimage.data.astronaut()
    parts = {
        "a": astronaut[:200, 100:400],
        "b": coffee[:200, 200:400],
        "c": coffee[200:],
        "d": astronaut[256:],
    }
    parts["again"] = parts["a"]
    for name, part in parts.items():
        Image.fromarray(part).save(root / "photos" / f"{name}.png")
    (root / "photos" / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture
def call(desk: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `structsam tune` in the desk's folder."""
    monkeypatch.chdir(desk)
    return lambda line: run_command("tune", line)


class Page(HTMLParser):
    """What a page refers to, and its pictures without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.bare: list[str] = []
        self.pictures = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.links += [str(given[name]) for name in ("src", "href") if name in given]
        if tag == "img" or given.get("role") == "img":
            self.pictures += 1
            self.bare += [] if given.get("alt") or given.get("aria-label") else [tag]
        if tag not in ("img", "meta", "path", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "rect", "circle", "polyline"):
            return
        assert self.open.pop() == tag


def test_a_recipe_a_report_and_the_command_to_type(call: Command, desk: Path) -> None:
    code, out, err = call(LOOSE)
    assert code == 0, err
    assert sorted(path.name for path in (desk / "out").iterdir()) == FILES
    assert "again.png is the same picture as a.png" in err or "a.png is the same picture as again.png" in err
    assert "2 settings of 4 blocks on 1 pictures, then whole recipes on 3 others" in err
    recipe = Recipe.read(Path("out/recipe.json"))
    assert recipe.tuned is not None
    assert recipe.tuned.low >= 0.1
    command = "structsam export --arch tiny --random-weights --recipe out/recipe.json --image-size 224"
    assert out.splitlines()[-1] == f"next: {command}"
    text = Path("out/report.html").read_text()
    assert command in text
    page = Page()
    page.feed(text)
    assert (page.bare, page.open) == ([], [])
    assert page.pictures == 1 + 3 * 3
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "http" not in text


def test_a_rerun_measures_nothing_and_replaces_only_with_force(call: Command, desk: Path) -> None:
    if not (desk / "out" / "recipe.json").exists():
        call(LOOSE)
    before, first = Path("out/measurements.jsonl").read_bytes(), Path("out/recipe.json").read_bytes()
    code, _, err = call(LOOSE)
    assert (code, err) == (2, "error: out has recipe.json and report.html; add --force to replace them\n")
    code, _, err = call(f"{LOOSE} --force")
    assert code == 0, err
    assert Path("out/measurements.jsonl").read_bytes() == before
    assert Path("out/recipe.json").read_bytes() == first


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that were timed: 2 s for a block, 1 s where it merges, and 10 s for an encoder less
    1 s for each block that merges, which is less than blocks predict."""
    asked: list[str] = []

    def time(self: Stopwatch, part: Part) -> float:
        asked.append(part.name)
        if part.name.startswith("whole"):
            return 10.0 - part.name.count("adjacent")
        return 2.0 if "Identity" in part.name else 1.0

    monkeypatch.setattr(Stopwatch, "__call__", time)
    return asked


def test_a_recipe_is_chosen_by_time_on_a_runner(call: Command, times: list[str]) -> None:
    line = f"--images photos -o timed {MODEL} --speedup 1.27 --latency cpu --pictures 3"
    code, out, err = call(line)
    assert code == 0, err
    assert sorted(path.name for path in Path("timed").iterdir()) == FILES, "graphs are removed"
    assert "times as fast" not in err, "within the slack"
    told = "On cpu the encoder takes 10000.00 ms unmerged and 8000.00 ms with the recipe, 1.25 times as fast."
    assert told in out
    assert sum(block.merges for block in Recipe.read(Path("timed/recipe.json")).blocks) == 2
    page = Path("timed/report.html").read_text()
    assert told in page
    assert "predicted ms" in page
    asked = len(times)
    code, again, err = call(f"{line} --force")
    assert (code, len(times)) == (0, asked), err
    assert again == out


def test_a_speedup_that_the_whole_encoder_misses_is_searched_once_more(
    call: Command, times: list[str]
) -> None:
    line = f"--images photos -o timed {MODEL} --speedup 1.28 --latency cpu --pictures 3 --force"
    code, out, err = call(line)
    assert code == 0, err
    assert "note: 1.25 times as fast, not 1.28: one more search" in err
    assert "1.43 times as fast" in out
    assert sum(block.merges for block in Recipe.read(Path("timed/recipe.json")).blocks) == 3


def test_a_budget_that_no_recipe_reaches_names_the_nearest_by_time(call: Command, times: list[str]) -> None:
    code, _, err = call(
        f"--images photos -o timed {MODEL} --budget 0.999999 --latency cpu --pictures 3 --force"
    )
    assert code == 3
    assert re.search(r"the nearest has 0\.\d+ at \d+\.\d\d ms: lower the budget", err)


def test_an_engine_that_cannot_be_built_is_one_line(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Stopwatch, part: Part) -> float:
        raise BuildError("the library has not enough memory to build")

    monkeypatch.setattr(Stopwatch, "__call__", fails)
    code, out, err = call(f"--images photos -o unbuilt {MODEL} --budget 0.1 --latency openvino")
    assert (code, out) == (3, "")
    assert (
        err.splitlines()[-1]
        == "failed: the library has not enough memory to build; a rerun goes on where it was"
    )
    assert not list(Path("unbuilt").iterdir())


def test_an_export_says_what_was_tuned(call: Command, desk: Path) -> None:
    if not (desk / "out" / "recipe.json").exists():
        call(LOOSE)
    recipe = Recipe.read(Path("out/recipe.json"))
    config = ExportConfig("tiny", random_weights=True, image_size=224, merging=recipe)
    (line,) = told_of(config)
    assert line.startswith("tuned: agreement ")
    assert line.endswith("with the unmerged masks of 3 pictures")
    assert config.as_json()["recipe"]["tuned"] == config.recipe.as_json()["tuned"]
    again = ExportConfig.from_json(json.loads(json.dumps(config.as_json())))
    assert again.recipe.tuned == recipe.tuned
    for other in ({"seed": 1, "image_size": 224}, {"image_size": 448}):
        (line,) = told_of(ExportConfig("tiny", random_weights=True, merging=recipe, **other))
        assert line.startswith("the recipe was tuned with other weights or another --image-size")


def test_a_budget_that_no_recipe_reaches_names_the_nearest(call: Command) -> None:
    code, out, err = call(f"--images photos -o unmet {MODEL} --budget 0.999999")
    assert (code, out) == (3, "")
    last = err.splitlines()[-1]
    assert last.startswith("failed: no recipe that merges reaches --budget 0.999999; the nearest has 0.")
    assert [path.name for path in Path("unmet").iterdir()] == ["measurements.jsonl"]


def test_boxes_of_a_person_take_the_place_of_the_grid(call: Command) -> None:
    boxes = {f"{name}.png": {"boxes": [[10, 10, 100, 90], [0, 0, 5000, 1]]} for name in "bcd"}
    boxes["b.png"]["boxes"].append([9, 9, 1, 1])
    Path("boxes.json").write_text(json.dumps(boxes))
    code, out, err = call(f"--images photos -o boxed {MODEL} --budget 0.1 --prompts boxes.json")
    assert code == 0, err
    assert "on 2 pictures, 4 prompts" in out
    assert "b.png: 1 of 3 boxes have no mask: box 3" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"--images photos -o x {MODEL}", "tune got 0 of --budget, --speedup and --macs; give one of them"),
        (f"--images photos -o x {MODEL} --budget 0.9 --macs 1", "tune got 2 of --budget, --speedup and"),
        (f"--images photos -o x {MODEL} --budget 97", "--budget is 97; expected an agreement between 0 and"),
        (
            f"--images photos -o x {MODEL} --speedup 50",
            "--speedup 50 asks for 0.003771 GMAC; the encoder",
        ),
        (f"--images none -o x {MODEL} --budget 0.9", "no folder none; expected one with pictures"),
        (f"--images photos/sub -o x {MODEL} --budget 0.9", "tune got 0 pictures; expected 3 at least"),
        (f"--images photos -o photos/a.png {MODEL} --budget 0.9", "cannot write photos/a.png: File exists"),
        (f"--images photos -o x {MODEL} --budget 0.9 --device cuda", "--device cuda: PyTorch finds no GPU"),
        (f"--images photos -o x {MODEL} --budget 0.9 --device tpu", "--device tpu is unknown; expected cpu"),
        (f"--images photos -o x {MODEL} --budget 0.9 --prompts no.json", "no file no.json; expected boxes"),
        (
            f"--images photos -o x {MODEL} --macs 1 --latency cpu",
            "--latency prices settings by time, not by --macs; give --speedup or --budget",
        ),
        (f"--images photos -o x {MODEL} --budget 0.9 --latency gpu", "runner 'gpu' is unknown, expected one"),
    ],
)
def test_a_usage_error_is_one_line(call: Command, desk: Path, line: str, message: str) -> None:
    (desk / "photos" / "sub").mkdir(exist_ok=True)
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert f"error: {message}" in err.splitlines()[-1]
    assert not Path("x/recipe.json").exists()
