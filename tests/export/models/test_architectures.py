"""Geometry belongs to the architecture: a model of patch 8 goes the whole way, and no other file knows 14."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from rich.console import Console

from structsam_export import pipeline
from structsam_export.config import ExportConfig
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_runtime import Predictor, UserError
from structsam_runtime.progress import Progress

ROOT = Path(__file__).parents[3]
FINE = Architecture(
    embed_dim=64,
    depth=2,
    heads=2,
    global_blocks=(1,),
    file="fine.pth",
    sha256="0" * 64,
    width=64,
    decoder_mlp=64,
    decoder_heads=4,
    image_size=512,
    patch=8,
)
BOX = (100, 80, 400, 360)


@pytest.fixture(scope="module")
def fine() -> Iterator[str]:
    """An architecture of patch 8: at 512 pixels it has SAM's 64 x 64 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "fine", FINE)
        yield "fine"


@pytest.fixture(scope="module")
def export(fine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of rate 0.55, verified on one photograph."""
    folder = tmp_path_factory.mktemp("fine")
    (folder / "photos").mkdir()
    Image.fromarray(skimage.data.coffee()).save(folder / "photos" / "coffee.png")
    config = ExportConfig(fine, random_weights=True)
    progress = Progress(Console(quiet=True))
    return pipeline.export(config, folder / "out", folder / "photos", False, progress).folder


@pytest.mark.export
@pytest.mark.xdist_group("patch 8")  # one export for both
def test_patch_8_exports_with_sams_counts(export: Path) -> None:
    said = json.loads((export / "manifest.json").read_text())
    assert said["merging"]["global"]["tokens_kept"] == 1843
    assert said["merging"]["global"]["tokens"] == 4096
    assert said["merging"]["window"]["tokens_kept"] == 88
    assert said["merging"]["window"]["tokens"] == 196
    assert (said["model"]["embedding"], said["model"]["low_res"]) == ([64, 64, 64], 256)
    assert said["verification"]["mask_iou"] > 0.99


@pytest.mark.export
@pytest.mark.xdist_group("patch 8")  # one export for both
def test_patch_8_answers_a_box(export: Path) -> None:
    with Predictor.load(export) as predictor:
        predictor.set_image(skimage.data.coffee())
        masks, iou, low_res = predictor.predict(box=BOX)
    assert (masks.shape, masks.dtype) == ((3, 400, 600), np.bool_)
    assert (iou.shape, low_res.shape) == ((3,), (3, 256, 256))


def test_a_size_must_be_a_multiple_of_the_patch(fine: str) -> None:
    config = ExportConfig.of(fine, "tome", random_weights=True, image_size=504)
    assert config.image_size == 504
    with pytest.raises(UserError, match="--image-size 500 is not a multiple of 8 from 64 to 4096"):
        ExportConfig(fine, random_weights=True, image_size=500)


def test_grid_and_masks_follow_the_patch() -> None:
    assert (FINE.grid(512), FINE.mask_side(512)) == (64, 256)
    sam = ARCHITECTURES["vit_b"]
    assert (sam.grid(1024), sam.mask_side(1024), sam.window) == (64, 256, 14)


def test_no_other_file_knows_the_size_of_a_window() -> None:
    known = {
        path.name
        for source in ("export", "runtime", "plugins", "scripts")
        for path in (ROOT / source).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Constant) and node.value == 14)
        or (isinstance(node, ast.Name) and node.id in ("PATCH", "WINDOW") and path.name != "choices.py")
    }
    # In two of them 14 is something else: a version of ONNX, and a field of its files.
    assert known == {"architectures.py", "lint.py", "onnxfile.py"}
