"""MedSAM against the steps that its authors publish (MedSAM_Inference.py), written again, slowly.

Its weights have SAM's names and shapes, so that random ones stand in for them.
"""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from skimage import transform

from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import build_sam, load_sam, randomize
from structsam_export.subjects import in_pytorch
from structsam_export.verify import samples
from structsam_runtime import AutomaticMaskGenerator, Predictor, Prompt
from structsam_runtime.errors import Caution
from structsam_runtime.manifest import Manifest, Model
from structsam_runtime.predict.image import prepare, read_image
from structsam_runtime.predict.predictor import BOXES_ONLY
from structsam_runtime.progress import Progress

SMALL = Architecture(64, 4, 2, (1, 3), "", "", image_size=256)
COFFEE = skimage.data.coffee()  # 400 x 600
PICTURES = {
    "coffee": COFFEE,
    "narrow": COFFEE[:, 200:237],
    "wide": COFFEE[150:190],
    "grey": np.repeat(skimage.data.camera()[:, :, None], 3, axis=2),
    "dark": COFFEE // 3 + 20,
}
IOU = 0.999
Run = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportConfig]:
    """Of a fine-tune in a file, small."""
    path = tmp_path_factory.mktemp("weights") / "medsam.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", SMALL)
        sam = build_sam("small")
        randomize(sam)
        torch.save(sam.state_dict(), path)
        yield ExportConfig("small", checkpoint=path, family="medsam")


@pytest.fixture(scope="module")
def modules(config: ExportConfig) -> Any:
    """Meta's modules, untouched."""
    return load_sam("small", 0, config.checkpoint, random_weights=False)


@pytest.fixture(scope="module")
def model(config: ExportConfig, modules: Any) -> Model:
    """What the manifest of an export says."""
    return model_of(config, modules)


@pytest.fixture(scope="module")
def predictor(config: ExportConfig) -> Iterator[Predictor]:
    """The model in PyTorch, as `structsam evaluate` opens it."""
    (subject,) = in_pytorch(config, {}, Progress(Console(quiet=True)))
    with subject.open() as opened:
        yield opened


def published_pixels(picture: NDArray[np.uint8], side: int) -> torch.Tensor:
    """[1, 3, S, S]: stretched to a square of bytes, and from its lowest value to its highest to 0..1."""
    square = transform.resize(picture, (side, side), order=3, preserve_range=True, anti_aliasing=True)
    levels = square.astype(np.uint8).astype(np.float64)
    low, high = levels.min(), levels.max()
    return torch.tensor((levels - low) / max(high - low, 1e-8)).float().permute(2, 0, 1)[None]


@torch.no_grad()
def published_mask(sam: Any, picture: NDArray[np.uint8], box: list[float]) -> NDArray[np.bool_]:
    """[H, W]: a box on each axis by its own scale, one mask, its sigmoid interpolated at once."""
    height, width = picture.shape[:2]
    side = sam.image_encoder.img_size
    embedding = sam.image_encoder(published_pixels(picture, side))
    corners = np.array(box) / [width, height, width, height] * side
    sparse, dense = sam.prompt_encoder(
        points=None, boxes=torch.tensor(corners, dtype=torch.float32)[None, None], masks=None
    )
    logits, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    shares = F.interpolate(logits.sigmoid(), (height, width), mode="bilinear", align_corners=False)
    return np.asarray(shares[0, 0].numpy() > 0.5)


def a_box(picture: NDArray[np.uint8]) -> list[float]:
    height, width = picture.shape[:2]
    return [0.2 * width, 0.15 * height, 0.7 * width, 0.8 * height]


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_the_published_ones(name: str, model: Model) -> None:
    """But for one level in a few hundred values, where the resized sum is a whole number; see test_spline."""
    tensor, _ = prepare(PICTURES[name], model)
    expected = published_pixels(PICTURES[name], 256).numpy()
    assert tensor.dtype == np.float32
    levels = 255 / np.ptp(PICTURES[name].astype(float))
    assert np.abs(tensor - expected).max() <= 1.5 * levels / 255
    assert np.mean(np.abs(tensor - expected) > 1e-6) <= 0.01


@pytest.mark.parametrize("name", PICTURES)
def test_masks_are_the_published_ones(name: str, predictor: Predictor, modules: Any) -> None:
    picture = PICTURES[name]
    expected = published_mask(modules, picture, a_box(picture))
    predictor.set_image(picture)
    (mask,), _, _ = predictor.predict(box=a_box(picture), multimask_output=False)
    assert 0.01 < expected.mean() < 0.99, "a mask that is neither nothing nor everything"
    assert overlap(mask, expected) >= IOU
    (logits,), _, _ = predictor.predict(box=a_box(picture), multimask_output=False, return_logits=True)
    np.testing.assert_array_equal(logits > 0, mask)
    (again,), _, _ = predictor.predict_many([Prompt(box=a_box(picture))], multimask_output=False)
    np.testing.assert_array_equal(again[0], mask)


def test_sams_rules_would_give_another_mask(predictor: Predictor, modules: Any) -> None:
    """What each rule is worth, so that a test above can fail by it."""
    expected = published_mask(modules, COFFEE, a_box(COFFEE))
    ours = predictor.model
    try:
        for change in (
            {"fit": "pad"},
            {"scaling": "deviation"},
            {"upscaling": "logits"},
            {"resampling": "bilinear"},
        ):
            predictor.model = dataclasses.replace(ours, **change)
            predictor.set_image(COFFEE)
            (mask,), _, _ = predictor.predict(box=a_box(COFFEE), multimask_output=False)
            assert overlap(mask, expected) < IOU, change
    finally:
        predictor.model = ours


def test_a_grey_file_is_three_equal_bands(tmp_path: Path, model: Model) -> None:
    camera = skimage.data.camera()
    Image.fromarray(camera).save(tmp_path / "grey.png")
    tensor, _ = prepare(read_image(tmp_path / "grey.png"), model)
    np.testing.assert_array_equal(tensor, prepare(PICTURES["grey"], model)[0])
    np.testing.assert_array_equal(tensor[0, 0], tensor[0, 2])


def test_everything_mode_grows_masks_by_the_same_rule(predictor: Predictor) -> None:
    settings = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    with pytest.warns(Caution, match="learned one mask for a box"):
        found = AutomaticMaskGenerator(predictor, **settings).generate(COFFEE)
    predictor.set_image(COFFEE)
    assert len(found) == 12
    for one in found:
        with pytest.warns(Caution):
            masks, iou, _ = predictor.predict(point_coords=one["point_coords"], point_labels=[1])
        same = masks[np.abs(iou - one["predicted_iou"]).argmin()]
        assert overlap(one["segmentation"], same) >= IOU


def test_verification_looks_at_the_same_pixels(model: Model) -> None:
    (sample,) = samples({"coffee": COFFEE}, model)
    np.testing.assert_array_equal(sample.feed["image"], prepare(COFFEE, model)[0])
    assert (sample.frame.resized_height, sample.frame.resized_width) == (256, 256)


LENIENT = "--points-per-side 1 --pred-iou-thresh 0 --stability-score-thresh 0"  # something is found
UNTRAINED: dict[str, dict[str, Any]] = {
    "a point": {"point_coords": [[30, 40]], "point_labels": [1]},
    "a point off the object beside a box": {
        "point_coords": [[30, 40]], "point_labels": [0], "box": [10, 10, 90, 90],
    },
    "three candidates": {"box": [10, 10, 90, 90], "multimask_output": True},
    "an earlier mask": {"box": [10, 10, 90, 90], "mask_input": np.zeros((1, 256, 256), np.float32)},
}  # fmt: skip


@pytest.fixture
def as_medsam(tmp_path: Path, export_folder: Path, model: Model) -> Path:
    """The fake export, whose manifest says what MedSAM's says."""
    folder = Path(shutil.copytree(export_folder, tmp_path / "out"))
    content = json.loads((folder / "manifest.json").read_text())
    sizes = ("arch", "image_size", "embedding", "low_res")
    said = dataclasses.asdict(model) | {name: content["model"][name] for name in sizes}
    (folder / "manifest.json").write_text(json.dumps(content | {"model": said}))
    return folder


def test_the_manifest_carries_it(as_medsam: Path, model: Model) -> None:
    read = Manifest.read(as_medsam).model
    assert (read.scaling, read.fit, read.resampling) == ("min-max", "stretch", "spline")
    assert (read.upscaling, read.boxes_only) == ("probabilities", True)
    assert (model.pixel_mean, model.pixel_std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("what", UNTRAINED)
def test_prompts_it_never_learned_are_answered_with_a_word(what: str, as_medsam: Path) -> None:
    with Predictor.load(as_medsam, threads=1) as predictor:
        predictor.set_image(COFFEE)
        predictor.predict(box=[[10, 10, 90, 90], [50, 60, 200, 300]], multimask_output=False)  # no word
        with pytest.warns(Caution) as told:
            masks, _, _ = predictor.predict(**{"multimask_output": False} | UNTRAINED[what])
        assert masks.any()
        assert {str(one.message) for one in told} == {BOXES_ONLY}
        assert "\n" not in BOXES_ONLY


def test_sam_is_asked_anything_without_a_word(export_folder: Path) -> None:
    with Predictor.load(export_folder, threads=1) as predictor, warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.set_image(COFFEE)
        for asked in UNTRAINED.values():
            predictor.predict(**asked)


@pytest.mark.filterwarnings("default::structsam_runtime.errors.Caution")
@pytest.mark.parametrize(("asked", "lines"), [("--box 10 10 90 90", 0), ("--point 30 40", 1)])
def test_commands_say_it_in_one_line(
    asked: str, lines: int, as_medsam: Path, tmp_path: Path, run_command: Run
) -> None:
    Image.fromarray(COFFEE).save(tmp_path / "photo.png")
    code, _, err = run_command("predict", f"{as_medsam} {tmp_path}/photo.png {asked} -o {tmp_path}/drawn.png")
    assert (code, err) == (0, f"warning: {BOXES_ONLY}\n" * lines)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("default::structsam_runtime.errors.Caution")
@pytest.mark.parametrize("boxes", [True, False])
def test_a_folder_is_segmented_the_same_way(
    boxes: bool, as_medsam: Path, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(COFFEE).save(tmp_path / "pictures/photo.png")
    (tmp_path / "boxes.json").write_text('{"photo.png": {"boxes": [[100, 80, 400, 260]]}}')
    asked = f"--prompts {tmp_path}/boxes.json" if boxes else LENIENT
    line = f"{tmp_path}/pictures -o {tmp_path}/masks --model {as_medsam} {asked}"
    code, _, err = run_command("batch", line)
    assert (code, err) == (0, "" if boxes else f"warning: {BOXES_ONLY}\n")
    found = json.loads((tmp_path / "masks/photo.png.json").read_text())["masks"]
    if boxes:
        with Predictor.load(as_medsam, threads=1) as predictor:
            predictor.set_image(COFFEE)
            masks, _, _ = predictor.predict(box=[100, 80, 400, 260], multimask_output=False)
        assert [one["area"] for one in found] == [masks.sum()]
