"""structsam visualize as a person calls it, on a small SAM."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from structsam_export.analysis.pictures import draw_energy, draw_masks, draw_merging, watch
from structsam_export.analysis.sheet import TOKEN_KEY, Panel, draw_box, panels, sheet
from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.encoder import PromptedMaskDecoder, remove
from structsam_export.pipeline import load
from structsam_runtime.predict.image import Frame, prepare
from structsam_runtime.predict.masks import binary
from structsam_runtime.predict.prompts import encode

TINY = "--arch tiny --random-weights --image-size 320"
BOX = (100, 80, 400, 360)

Visualize = Callable[[str], tuple[int | str | None, str, str]]
RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def visualize(tiny: str, photo: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Visualize:
    """Runs the command in this process, in the folder of the photograph: exit code, stdout, stderr."""

    def call(line: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(photo.parent)
        return run_command("visualize", line)

    return call


def configs(*methods: str, rate: float = 0.55) -> list[ExportConfig]:
    return [ExportConfig.of("tiny", method, rate, random_weights=True, image_size=320) for method in methods]


@pytest.mark.parametrize(
    ("options", "panels"),
    [
        ("--rate 0.55 --block 2", 3),
        ("", 3),
        ("--method tome", 2),  # it has no energy
        ("--method tome --method tome --block 1 --block 0 --block 1", 4),
        ("--box 100 80 400 360", 6),
        pytest.param("--all-methods --box 100 80 400 360", 1 + 2 + 9 + 2 + 9, marks=pytest.mark.export),
        ("--box -20 -20 700 500", 6),  # beyond the photograph on every side
    ],
)
def test_it_draws_one_picture(options: str, panels: int, visualize: Visualize, photo: Path) -> None:
    code, out, err = visualize(f"photo.png -o plan.png {TINY} {options}")
    assert (code, out, err) == (0, f"plan.png: {panels} panels\n", "")
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "plan.png"}
    with Image.open(photo.parent / "plan.png") as drawn:
        assert 600 <= drawn.width <= 3000
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 200


@pytest.mark.parametrize("suffix", [".jpg", ".pdf", ".SVG"])
def test_other_formats(suffix: str, visualize: Visualize, photo: Path) -> None:
    code, _, err = visualize(f"photo.png -o plan{suffix} {TINY}")
    assert (code, err) == (0, "")
    assert (photo.parent / f"plan{suffix}").stat().st_size > 10_000


def test_panels_are_what_each_method_does_alone(tiny: str) -> None:
    """Drawn again from an encoder that was loaded for one method only: the same pixels."""
    picture = skimage.data.coffee()
    frame = Frame.of(400, 600, 320)
    prompts = encode(frame, box=BOX)
    both = configs("structsam", "pitome")
    tokens, other, masks = panels(picture, both, [1, 2], prompts)
    photo = np.asarray(Image.fromarray(picture).resize((320, 213), Image.Resampling.BILINEAR))
    assert [panel.title for panel in tokens] == [
        "photograph",
        "StructSAM, energy in block 1\ngradient: bright stays",
        "PiToMe, energy in block 1\nsimilarity: bright merges",
        "StructSAM, block 1\nglobal: 400 tokens to 178",
        "PiToMe, block 1\nglobal: 400 tokens to 200",
    ]
    assert other[3].title == "StructSAM, block 2\n4 windows: 196 tokens to 88 each"
    assert [panel.title for panel in masks[:2]] == ["box prompt", "mask without merging"]
    np.testing.assert_array_equal(tokens[0].picture, photo)
    for index, config in enumerate(both):
        sam = load(config)
        image = torch.from_numpy(prepare(picture, model_of(config, sam))[0])
        for group, block in ((tokens, 1), (other, 2)):
            view = watch(sam.image_encoder, image, [block])[0][block]
            assert view.energy is not None
            np.testing.assert_array_equal(group[1 + index].picture, draw_energy(photo, view.energy, 16))
            np.testing.assert_array_equal(group[3 + index].picture, draw_merging(photo, view))
        after = mask(sam, image, prompts, frame)
        remove(sam.image_encoder)
        before = mask(sam, image, prompts, frame)
        np.testing.assert_array_equal(masks[1].picture, draw_masks(photo, before, before))
        np.testing.assert_array_equal(masks[2 + index].picture, draw_masks(photo, before, after))
        share = (before & after).sum() / (before | after).sum()
        assert masks[2 + index].title.endswith(f"mask\nIoU with the unmerged {share:.3f}")
        assert 0 < share < 1


def mask(sam: Any, image: torch.Tensor, prompts: Any, frame: Frame) -> Any:
    """The single mask of a prompt, at the photograph's size in the encoder."""
    coords, labels = torch.from_numpy(prompts.point_coords), torch.from_numpy(prompts.point_labels)
    embedding = sam.image_encoder(image)
    low, _ = PromptedMaskDecoder(sam)(embedding, coords, labels, torch.zeros(1, 1, 80, 80), torch.zeros(1))
    size = frame.resized_height, frame.resized_width
    return binary(low.numpy(), Frame(*size, *size, frame.image_size), sam.mask_threshold)[0, 0]


def test_nothing_changes_at_rate_0(tiny: str) -> None:
    picture = skimage.data.coffee()
    prompts = encode(Frame.of(400, 600, 320), box=BOX)
    tokens, masks = panels(picture, configs("structsam", rate=0), [1], prompts)
    assert [panel.title for panel in tokens] == [
        "photograph",
        "StructSAM, block 1\nglobal: 400 tokens to 400",
    ]
    np.testing.assert_array_equal(tokens[1].picture, tokens[0].picture)
    assert float(masks[2].title.split()[-1]) >= 0.999  # another order of sums may move a pixel on the edge


def test_the_box_is_drawn_where_it_is() -> None:
    grey = np.full((60, 80, 3), 128, np.uint8)
    drawn = draw_box(grey, np.array([[10, 20], [50, 40]], np.float32))
    assert (grey == 128).all()
    white = np.zeros((60, 80), bool)
    white[20:41, [10, 50]] = white[[20, 40], 10:51] = True
    np.testing.assert_array_equal((drawn == 255).all(-1), white)
    assert (drawn[25:36, 15:46] == 128).all()


@pytest.mark.parametrize(
    ("groups", "rows", "columns"),
    [
        ((3,), 1, 3),
        ((3, 3), 2, 3),
        ((5,), 1, 5),
        ((6, 5), 4, 3),  # two rows of three rather than of five and one
        ((10, 9), 4, 5),
    ],
)
@pytest.mark.parametrize("shape", [(40, 40), (80, 20), (20, 80)])
def test_the_sheet_holds_every_panel_in_order(
    groups: tuple[int, ...], rows: int, columns: int, shape: tuple[int, int]
) -> None:
    """Every group begins a new row, and titles keep to their own column."""
    picture = np.zeros((*shape, 3), np.uint8)
    title = "25 windows: 196 tokens to 88 each"
    made = [[Panel(f"{group} {at}\n{title}", picture) for at in range(n)] for group, n in enumerate(groups)]
    figure = sheet(made, "all", TOKEN_KEY)
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == rows * columns
    assert [axes.get_title() for axes in shown] == [panel.title for group in made for panel in group]
    starts = [sum(groups[:index]) for index in range(len(groups))]
    assert all(shown[start].get_subplotspec().colspan.start == 0 for start in starts)
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:columns]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo.png -o plan.txt", "--output plan.txt does not end in .png, .jpg, .pdf or .svg"),
        ("photo.png -o ./photo.png", "is the photograph itself"),
        ("photo.png -o none/plan.png", "there is no folder none"),
        ("none.png -o plan.png", "no file none.png"),
        ("photo.png", "Missing option"),
        ("photo.png -o plan.png --block 4", "--block 4 is not in tiny; expected 0 to 3"),
        ("photo.png -o plan.png --block 1 --block -1", "--block -1 is not in tiny"),
        ("photo.png -o plan.png --method nose", "--method nose is unknown; expected one of structsam"),
        ("photo.png -o plan.png --box 700 80 800 360", "lies outside the picture of 600 x 400 pixels"),
        ("photo.png -o plan.png --box 400 80 100 360", "the box (400, 80, 100, 360)"),
        ("photo.png -o plan.png --box 100 80 400", "--box"),
        ("photo.png -o plan.png --rate 0.8", "the rate of window blocks is 0.8"),
        ("photo.png -o plan.png --image-size 300", "--image-size 300 is not a multiple of 16"),
        ("photo.png -o plan.png --checkpoint x.pth", "--checkpoint and --random-weights exclude each other"),
    ],
)
def test_usage_errors_print_one_line_and_write_nothing(
    line: str, message: str, visualize: Visualize, photo: Path
) -> None:
    code, out, err = visualize(f"--arch tiny --random-weights {line}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(photo.parent.iterdir()) == [photo]


def test_help(visualize: Visualize) -> None:
    code, out, _ = visualize("--help")
    assert code == 0
    assert "--all-methods" in out
