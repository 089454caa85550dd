"""What the README says is true: commands run, figures come from result files, links lead somewhere."""

import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from structsam_export.models import downloads
from structsam_export.models.architectures import ARCHITECTURES
from structsam_export.models.checkpoints import load_sam
from structsam_runtime.thresholds import THRESHOLDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
_GUIDES = ("export", "tune", "device", "predict", "demo", "serve", "measure")
GUIDE = [f"docs/guide/{name}.md" for name in _GUIDES]
PAGES = ["README.md", *GUIDE]
"""Those with commands, in the order in which a user meets them."""


def blocks(language: str) -> list[str]:
    """Contents of the fenced blocks in one language, in order."""
    texts = [(ROOT / page).read_text() for page in PAGES]
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def test_every_page_of_the_guide_is_read() -> None:
    assert {f"docs/guide/{path.name}" for path in (ROOT / "docs" / "guide").iterdir()} == set(GUIDE)


def test_it_is_one_page() -> None:
    assert len(README.splitlines()) <= 130


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user has it, with a photograph, and a cache that holds a checkpoint.

    The checkpoint has random weights: what is tested is that the commands work, not what they find. ViT-B is
    as wide as it is, but has a block of each kind, and all pictures are of 256 pixels.
    """
    Image.fromarray(data.coffee()).save(tmp_path / "photo.jpg")
    write_coco(tmp_path / "coco")
    cache = tmp_path / "cache"
    cache.mkdir()
    known = replace(ARCHITECTURES["vit_b"], depth=2, global_blocks=(1,), image_size=256)
    monkeypatch.setitem(ARCHITECTURES, "vit_b", known)
    monkeypatch.setitem(ARCHITECTURES, "vit_nano", replace(ARCHITECTURES["vit_nano"], image_size=256))
    sam = load_sam("vit_b", 256, None, random_weights=True)
    torch.save(sam.state_dict(), cache / known.file)
    downloads._remember(cache / known.file, known.sha256)  # as if its hash had been checked
    monkeypatch.setenv("STRUCTSAM_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_coco(root: Path) -> None:
    """One photograph with one object, in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    Image.fromarray(data.coffee()).save(root / "val2017" / "000000000001.jpg")
    cup = [180, 60, 420, 60, 440, 300, 170, 300]  # x and y in turn
    content = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "height": 400, "width": 600}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 47, "segmentation": [cup], "area": 1, "iscrowd": 0}
        ],
        "categories": [{"id": 47, "name": "cup"}],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


@pytest.mark.readme
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_the_commands_and_the_example_run_in_order(
    desk: Path, run_command: Callable[[str, str], tuple[int | str | None, str, str]]
) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = list(dict.fromkeys(line for line in lines if line.startswith("structsam ")))
    assert len(commands) >= 5
    for command in commands:
        _, name, *options = command.split(" ", 2)
        code, out, err = run_command(name, " ".join(options))
        assert code == 0, f"{command}\n{out}\n{err}"
    for example in blocks("python"):
        exec(example, {})
    for name in ("vit_nano-structsam-r55-fp32", "vit_b-structsam-r55-fp16"):
        made = {path.name for path in (desk / "out" / name).iterdir()}
        assert made == {"encoder.onnx", "decoder.onnx", "reference.npz", "manifest.json"}
    for picture in ("overlay.png", "all.png", "plan.png", "spectral.png", "results/coco-val2017.png"):
        with Image.open(desk / picture) as drawn:
            assert drawn.size[0] >= 600
    assert (desk / "result.md").is_file()
    assert (desk / "masks" / "000000000001.jpg.json").is_file()


def test_everything_it_installs_is_an_extra() -> None:
    extras = importlib.metadata.metadata("structsam").get_all("Provides-Extra")
    groups = re.findall(r'"(?:structsam|\.)\[([\w,]+)\]"', README)
    named = {name for group in groups for name in group.split(",")}
    assert named
    assert named <= set(extras)


@pytest.mark.parametrize(
    ("page", "result"),
    [
        ("docs/results.md", "cpu-vit_b"),
        ("docs/results.md", "cpu-openvino-vit_b"),
        ("docs/results.md", "quality/int8"),
        ("docs/methods.md", "planning-cpu"),
        ("docs/methods.md", "methods-vit_b"),
        ("docs/graphs.md", "attention-cpu"),
        ("docs/graphs.md", "builds-rtx"),
        ("docs/graphs.md", "builds-rtx-int8"),
        ("docs/graphs.md", "builds-rtx-int8-fp16"),
        ("docs/graphs.md", "passes-cpu"),
    ],
)
def test_tables_are_those_that_were_measured(page: str, result: str) -> None:
    measured = (ROOT / "benchmarks" / f"{result}.md").read_text()
    assert measured in (ROOT / page).read_text()


def on_one_line(page: str) -> str:
    """A page's text, however its lines are broken."""
    return " ".join((ROOT / page).read_text().split())


def cells(line: str) -> list[str]:
    """Of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(page: str, head: str) -> list[list[str]]:
    """The rows of a page's table whose first line begins so; its names first."""
    text = (ROOT / page).read_text()
    lines = (head + text.partition(head)[2].partition("\n\n")[0]).splitlines()
    return [cells(line) for line in lines[:1] + lines[2:]]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_qualities_are_those_that_were_measured(page: str) -> None:
    """The rows of rate 0.55, and some of their columns, from the first of the result's tables."""
    measured = (ROOT / "benchmarks" / "quality" / "tables.md").read_text().partition("\n\n## Dice")[0]
    rows = [cells(line) for line in measured.splitlines() if line.startswith("| ")]
    known = {row[0]: row for row in rows if row[1] in ("", "0.55")}
    told = table(page, "| method | GMAC | photographs: mIoU |")[1:]
    columns = [
        rows[0].index(f"held-out-{name}")
        for name in (
            "photographs mIoU",
            "photographs agreement",
            "salient mIoU",
            "thin mIoU",
            "thin agreement",
        )
    ]
    assert len(told) >= 4
    for row in told:
        assert row == [known[row[0]][column] for column in (0, 3, *columns)]


def test_limits_are_those_that_a_check_holds() -> None:
    """In fp32 and in fp16; a mean says so."""
    _, *told = table("docs/guide/export.md", "| column | what | limit in fp32 |")
    names = ("least_error", "cosine_end_to_end", "mask_iou", "decoder_iou", "predicted_iou")
    for row, name in zip(told, names, strict=True):
        limits = [f"{getattr(THRESHOLDS[precision], name):g}" for precision in ("fp32", "fp16")]
        assert [cell.removeprefix("mean ").partition(";")[0] for cell in row[2:]] == limits
    assert told[0][3].endswith(f"; {THRESHOLDS['fp16'].error:g} if nothing merges")


def test_its_times_are_those_that_were_measured() -> None:
    """Some of the rows and of the columns of the result's table."""
    head, *known = table("benchmarks/cpu-vit_b.md", "| encoder |")
    names, *told = table("README.md", "| encoder |")
    assert len(names) >= 5
    columns = ["time by medians" if name == "time" else name for name in names]
    measured = [[row[head.index(name)] for name in columns] for row in known]
    assert len(told) >= 4
    assert all(row in measured for row in told)


def test_eight_bits_take_the_time_that_was_measured() -> None:
    """Relative to Meta's plain export in each runner, by medians: the slower of two methods."""
    result = json.loads((ROOT / "benchmarks" / "cpu-openvino-vit_b.json").read_text())
    times = {(row["name"], row["runner"]): row["median_s"] for row in result["encoders"]}
    plain = [times["Meta's, plain export", runner] for runner in ("cpu", "openvino")]
    ours = max(times[f"vit_b-{method}-r55-int8", "openvino"] for method in ("structsam", "adjacent"))
    told = re.search(r"took \*\*(.*?)\*\* of the time.*?and (.*?) of that in OpenVINO", README, re.DOTALL)
    assert told
    assert told.groups() == tuple(f"{ours / one:.2f}" for one in plain)


@pytest.mark.parametrize("result", ["vit_nano", "vit_nano-256px"])
def test_what_tune_finds_is_what_was_measured(result: str) -> None:
    """A row for each budget: the recipe, its agreement on unseen pictures, and uniform rates beside it."""
    found = json.loads((ROOT / "benchmarks" / "tuning" / f"{result}.json").read_text())
    _, _, below = (ROOT / "docs" / "guide" / "tune.md").read_text().partition(f"tuning/{result}.md")
    told = [cells(line) for line in below.splitlines() if line.startswith("| 0.")][:3]
    assert len(told) == len(found["budgets"])
    for row, budget in zip(told, found["budgets"], strict=True):
        uniform = {one["method"]: one["gmac"] for one in budget["rivals"] if not one["merge_mlp"]}
        numbers = [budget["gmac"], *(uniform[name] for name in ("adjacent", "structsam", "tomesd"))]
        gmac = [f"{number:.2f}" for number in numbers]
        agreement = f"{100 * budget['unseen']['mean']:.1f}"
        assert row == [f"{budget['budget']:.2f}", gmac[0], agreement, *gmac[1:]]


def test_tuned_recipes_take_the_time_that_was_measured() -> None:
    """As shares of the unmerged encoder's."""
    found = json.loads((ROOT / "benchmarks" / "tuning" / "vit_nano.json").read_text())["times"]
    time = {(one["runner"], one["budget"], one["encoder"]): one["measured_ms"] for one in found}
    _, *told = table("docs/guide/tune.md", "| time of | ONNX Runtime: tuned |")
    budgets = sorted({budget for _, budget, _ in time if budget}, reverse=True)
    for row, budget in zip(told, budgets, strict=True):
        expected = [f"`--budget {budget:g}`"]
        for runner in ("cpu", "openvino"):
            whole = time[runner, None, "unmerged"]
            uniform = next(key for key in time if key[:2] == (runner, budget) and "adjacent, rate" in key[2])
            expected += [f"{time[key] / whole:.0%}" for key in ((runner, budget, "tuned"), uniform)]
        assert row == expected
    predicted = {(one["runner"], one["budget"], one["encoder"]): one["predicted_ms"] for one in found}
    shares = [
        (time[key] / time[key[0], None, "unmerged"]) / (predicted[key] / predicted[key[0], None, "unmerged"])
        for key in time
    ]
    assert max(abs(share - 1) for share in shares) < 0.045


def test_times_on_a_gpu_are_those_that_were_measured() -> None:
    """The table has the first of two runs of an encoder; the text below it has ranges, and the second."""
    result = json.loads((ROOT / "benchmarks" / "gpu-h100.json").read_text())
    rows = {
        (row["name"] + ", compiled" * row["compiled"], row["precision"], row["batch"]): row
        for row in reversed(result["encoders"])
    }
    _, *told = table("docs/results.md", "| encoder in fp16 |")
    assert len(told) >= 7
    for name, *numbers in told:
        one, eight = rows[name, "fp16", 1], rows[name, "fp16", 8]
        times = [f"{1e3 * row['median_s']:.1f}" for row in (one, eight)]
        assert numbers == [*times, f"{8 / eight['median_s']:.0f}", f"{eight['peak_device'] / 1e6:.0f}"]

    def plans(by: str, batch: int) -> str:
        kind = {"step": "plan", "by": by, "batch": batch}
        of_kind = [row for row in result["kernels"] if kind.items() <= row.items()]
        low, high = (f"{1e3 * end(row['median_s'] for row in of_kind):.1f}" for end in (min, max))
        return low if low == high else f"{low} to {high}"

    text = on_one_line("docs/results.md")
    assert f"takes {plans('PyTorch', 1)} ms at batch 1 and {plans('PyTorch', 8)} ms at batch 8" in text
    assert f"take {plans('kernels', 1)} and {plans('kernels', 8)} ms." in text
    alone = [row for row in result["encoders"] if row["batch"] == 1]
    eager, fused = (1e3 * row["median_s"] for row in alone[-2:])
    assert f"Meta's eager encoder took {eager:.1f} ms, with fused attention {fused:.1f}." in text
    ours = [check for check in result["checks"] if check["what"].startswith("ours") and check["plans"]]
    assert f"at least {min(check['plans'] for check in ours):.2%} of the time" in text
    assert f"a mask IoU of at least {min(check['mask_iou'] for check in ours):.3f}." in text
    ratios = [row["ratio_median"] for row in result["kernels"] if row["by"] == "kernels"]
    plugins = (ROOT / "plugins" / "README.md").read_text()
    assert f"takes {min(ratios):.2f} to {max(ratios):.2f} of the time of PyTorch's operators" in plugins


def test_times_as_cuda_graphs_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks" / "gpu-h200.json").read_text())
    rows = {
        (
            row["name"].removesuffix(", CUDA graph") + ", compiled" * row["compiled"],
            row["batch"],
            "CUDA" in row["name"],
        ): row
        for row in reversed(result["encoders"])
    }
    time = {key: 1e3 * row["median_s"] for key, row in rows.items()}
    _, *told = table("docs/results.md", "| encoder on an H200, fp16 |")
    assert len(told) == 4
    for name, *numbers, memory in told:
        eight = rows.get((name, 8, False))
        kinds = [(name, 1, False), (name, 1, True), (name, 8, False), (name, 8, True)]
        assert numbers == [f"{time[kind]:.1f}" if kind in time else "" for kind in kinds]
        assert memory == (f"{eight['peak_device'] / 1e6:.0f}" if eight else "")
    meta, ours = "Meta's, fused attention", "ours at rate 0.55"
    shares = [
        time[ours + form, batch, graph] / time[meta, batch, graph]
        for form, batch, graph in (
            ("", 8, False),
            (", with the kernels", 8, False),
            (", with the kernels", 1, True),
            (", compiled", 1, True),
        )
    ]
    text = on_one_line("docs/results.md")
    first, second, third, fourth = (f"{share:.2f}" for share in shares)
    assert f"takes {first} of the time of Meta's encoder with fused attention, with our" in text
    assert f"(../plugins/README.md) {second},**" in text
    assert f"kernels takes **{second}** of the time of fused attention" in on_one_line("README.md")
    assert f"takes {third} of the time of Meta's in one, compiled {fourth}." in text


def test_half_precision_figures_are_those_of_the_manifest() -> None:
    path = ROOT / "benchmarks" / "vit_b-structsam-r55-fp16.manifest.json"
    measured = json.loads(path.read_text())["verification"]
    results = (ROOT / "docs" / "results.md").read_text()
    assert f"{measured['plans']:.2%} and {measured['mask_iou']:.4f}" in results


@pytest.mark.parametrize(
    "page",
    [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    for link in links:
        file = link.partition("#")[0]
        target = path.parent / file if file else path
        assert link.startswith("https://") or target.is_file(), link
