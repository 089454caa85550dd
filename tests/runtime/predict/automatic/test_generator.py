"""Everything mode against Meta's own generator, on the same weights: a small SAM with seeded random ones.

Random weights find no objects, so the thresholds lie where each filter drops some masks and keeps others.
"""

import json
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import scipy.ndimage
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from structsam_export.encoder.decoder import PromptedMaskDecoder
from structsam_export.models.architectures import Architecture
from structsam_export.models.checkpoints import build_sam, randomize
from structsam_runtime import Predictor, UserError
from structsam_runtime.manifest import Model
from structsam_runtime.predict.automatic.generator import AutomaticMaskGenerator, stability_score
from structsam_runtime.predict.image import read_image
from structsam_runtime.runners.base import Array, Runner, TensorSpec

SMALL = Architecture(64, 4, 2, (1, 3), "", "", image_size=256)
THRESHOLD = 1.4  # of mask logits: few of them lie above, which makes masks of many sizes
FLOAT, INT = np.dtype(np.float32), np.dtype(np.int32)
DEMO = Path(__file__).parents[5] / "shared" / "data" / "sam-demo"
COMMON = {
    "points_per_side": 7,
    "pred_iou_thresh": 0.1,
    "stability_score_thresh": 0.4,
    "stability_score_offset": 0.05,
    "box_nms_thresh": 0.8,
}
PICTURES = {
    "coffee": skimage.data.coffee(),  # 400 x 600
    "chelsea": skimage.data.chelsea(),  # 300 x 451
    "astronaut": skimage.data.astronaut(),  # 512 x 512
    "narrow": skimage.data.astronaut()[:317, 100:201],
}


class ModuleRunner(Runner):
    """A PyTorch module as an engine."""

    def __init__(
        self, module: nn.Module, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        super().__init__(type(module).__name__)
        self.module, self.specs = module, (inputs, outputs)

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        return self.specs

    def _close(self) -> None:
        pass

    @torch.no_grad()
    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self.module(*(torch.from_numpy(feeds[name]) for name in self.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(self.outputs, outputs, strict=True)}


@pytest.fixture(scope="module")
def weights() -> Any:
    """Meta's Sam, small."""
    small = build_sam(SMALL, 256)
    randomize(small)
    small.mask_threshold = THRESHOLD
    return small


@pytest.fixture(scope="module")
def predictor(weights: Any, sam: Model) -> Iterator[Predictor]:
    """Ours on the same weights."""
    model = replace(sam, image_size=256, embedding=(256, 16, 16), low_res=64, mask_threshold=THRESHOLD)
    embedding = {"image_embedding": TensorSpec(FLOAT, (1, 256, 16, 16))}
    encoder = ModuleRunner(weights.image_encoder, {"image": TensorSpec(FLOAT, (1, 3, 256, 256))}, embedding)
    decoder = ModuleRunner(
        PromptedMaskDecoder(weights),
        embedding
        | {
            "point_coords": TensorSpec(FLOAT, ("prompts", "points", 2)),
            "point_labels": TensorSpec(INT, ("prompts", "points")),
            "mask_input": TensorSpec(FLOAT, ("prompts", 1, 64, 64)),
            "has_mask_input": TensorSpec(FLOAT, ("prompts",)),
        },
        {
            "masks": TensorSpec(FLOAT, ("prompts", 4, 64, 64)),
            "iou_predictions": TensorSpec(FLOAT, ("prompts", 4)),
        },
    )
    with Predictor(encoder, decoder, model) as opened:
        yield opened


@pytest.fixture
def opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the one function of OpenCV with which Meta's generator finds regions."""

    def components(mask: NDArray[np.uint8], connectivity: int) -> tuple[int, Any, Any, None]:
        assert connectivity == 8
        labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        return count + 1, labels, np.bincount(labels.ravel(), minlength=count + 1)[:, None], None

    module = ModuleType("cv2")
    module.connectedComponentsWithStats = components  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", module)


def check(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The same masks with the same scores, in the same order.

    Both sides interpolate twice in float32 and add in another order, so a pixel at the very edge of a mask
    may differ: IoU of at least 0.999, or that one pixel where a mask has fewer than a thousand.
    """
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        mask, expected = one["segmentation"], other["segmentation"]
        assert (mask.dtype, mask.shape) == (expected.dtype, expected.shape)
        assert np.sum(mask ^ expected) <= max(1, 0.001 * np.sum(mask | expected))
        assert one["area"] == mask.sum()
        assert one["crop_box"] == other["crop_box"]
        np.testing.assert_allclose(one["bbox"], other["bbox"], rtol=0, atol=1)
        np.testing.assert_allclose(one["point_coords"], other["point_coords"], rtol=1e-12)
        np.testing.assert_allclose(one["predicted_iou"], other["predicted_iou"], rtol=0, atol=1e-5)
        # A mask that is empty at both thresholds has the score 0 / 0 there, 0 here.
        stability = np.nan_to_num(other["stability_score"])
        np.testing.assert_allclose(one["stability_score"], stability, rtol=0, atol=1e-3)


GRID = np.random.default_rng(0).random((11, 2))
CROPS = {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # and how many masks there are at least
    "the whole picture": ("coffee", {}, 8),
    "in odd batches": ("chelsea", {"points_per_batch": 27}, 8),
    "a narrow picture": ("narrow", {}, 4),
    "crops": ("chelsea", CROPS, 8),
    "crops that overlap more": ("astronaut", CROPS | {"crop_overlap_ratio": 0.6, "crop_nms_thresh": 0.5}, 4),
    "own points": ("coffee", {"points_per_side": None, "point_grids": [GRID]}, 2),
    "own points in crops": (
        "coffee",
        {"points_per_side": None, "point_grids": [GRID, 1 - GRID[:5]], "crop_n_layers": 1},
        3,
    ),
    "small regions": ("coffee", {"min_mask_region_area": 200}, 4),
    "small regions, crops": ("narrow", CROPS | {"min_mask_region_area": 60}, 4),
    "no filter": (
        "narrow",
        CROPS | {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1},
        30,
    ),
}


QUICK = ("the whole picture", "own points", "small regions, crops")


@pytest.mark.parametrize(
    "case", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in CASES]
)
@pytest.mark.usefixtures("opencv")
def test_masks_are_metas(case: str, meta: SimpleNamespace, weights: Any, predictor: Predictor) -> None:
    name, changes, least = CASES[case]
    settings = COMMON | changes
    expected = meta.SamAutomaticMaskGenerator(weights, **settings).generate(PICTURES[name])
    assert len(expected) >= least
    check(AutomaticMaskGenerator(predictor, **settings).generate(PICTURES[name]), expected)


@pytest.mark.long
@pytest.mark.skipif(not DEMO.is_dir(), reason="the photographs of SAM's demo are not there")
@pytest.mark.parametrize("name", ["dog.jpg", "dogs.jpg", "groceries.jpg", "truck.jpg"])
@pytest.mark.usefixtures("opencv")
def test_masks_of_demo_photographs_are_metas(
    name: str, meta: SimpleNamespace, weights: Any, predictor: Predictor
) -> None:
    picture = read_image(DEMO / name)
    settings = COMMON | {"crop_n_layers": 1, "points_per_side": 4, "min_mask_region_area": 400}
    expected = meta.SamAutomaticMaskGenerator(weights, **settings).generate(picture)
    assert len(expected) > 2
    check(AutomaticMaskGenerator(predictor, **settings).generate(picture), expected)


@pytest.mark.long
def test_every_filter_of_these_settings_drops_some_and_keeps_some(predictor: Predictor) -> None:
    def count(**changes: Any) -> int:
        settings = COMMON | {"points_per_side": 6} | changes
        return len(AutomaticMaskGenerator(predictor, **settings).generate(PICTURES["chelsea"]))

    every = count()
    assert every > 4
    for off in ({"pred_iou_thresh": 0}, {"stability_score_thresh": 0}, {"box_nms_thresh": 1}):
        assert count(**off) > every, off
    every = count(**CROPS)
    assert every > 4
    assert count(**CROPS, crop_nms_thresh=1) > every


def test_output_modes_are_one_mask(predictor: Predictor) -> None:
    settings = COMMON | {"points_per_side": 5}
    arrays, numbers, strings = (
        AutomaticMaskGenerator(predictor, **settings, output_mode=mode).generate(PICTURES["narrow"])
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert len(arrays) == len(numbers) == len(strings) > 0
    for array, number, string in zip(arrays, numbers, strings, strict=True):
        mask = array.pop("segmentation")
        compressed = json.loads(json.dumps(string)).pop("segmentation")
        plain = json.loads(json.dumps(number)).pop("segmentation")
        assert mask.dtype == np.bool_
        assert compressed == {
            "size": list(mask.shape),
            "counts": pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode(),
        }
        flags = np.arange(len(plain["counts"])) % 2 == 1
        np.testing.assert_array_equal(np.repeat(flags, plain["counts"]).reshape(mask.T.shape).T, mask)
        for other in (number, string):
            assert {key: other[key] for key in array} == array


@pytest.mark.parametrize("layers", [0, 1])
def test_a_picture_without_good_masks_has_none(layers: int, predictor: Predictor) -> None:
    generator = AutomaticMaskGenerator(
        predictor, points_per_side=2, pred_iou_thresh=10, crop_n_layers=layers, min_mask_region_area=5
    )
    assert generator.generate(PICTURES["coffee"]) == []


def test_a_single_pixel_is_a_picture(predictor: Predictor) -> None:
    settings = COMMON | CROPS | {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    found = AutomaticMaskGenerator(predictor, **settings).generate(np.full((1, 1, 3), 90, np.uint8))
    assert len(found) > 0
    assert all(one["segmentation"].shape == (1, 1) and one["bbox"] == [0, 0, 0, 0] for one in found)


def test_the_predictor_keeps_its_own_picture(predictor: Predictor) -> None:
    predictor.set_image(PICTURES["coffee"])
    before = predictor.predict(box=[10, 20, 300, 340])
    AutomaticMaskGenerator(predictor, points_per_side=1).generate(PICTURES["narrow"])
    for now, then in zip(predictor.predict(box=[10, 20, 300, 340]), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_memory_is_that_of_one_mask(predictor: Predictor) -> None:
    picture = np.asarray(Image.fromarray(PICTURES["coffee"]).resize((3000, 2000)))
    settings = COMMON | {"points_per_side": 4, "pred_iou_thresh": 0, "output_mode": "coco_rle"}
    generator = AutomaticMaskGenerator(predictor, **settings)
    tracemalloc.start()
    try:
        assert len(generator.generate(picture)) > 4
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One mask in float32 and what is made of it; the logits of all would be 48 of them.
    assert peak < 3 * picture.shape[0] * picture.shape[1] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": None}, "neither of points_per_side and point_grids came"),
        ({"point_grids": [GRID]}, "both of points_per_side and point_grids came"),
        ({"points_per_side": 0}, "points_per_side is 0, expected a whole number, 1 or more"),
        ({"points_per_side": 30_000}, "points_per_side is larger than 1000, expected a whole number from 1"),
        ({"points_per_side": 10**400}, "points_per_side is larger than 1000"),
        ({"crop_n_layers": 30}, "crop_n_layers is larger than 6"),
        ({"min_mask_region_area": 10**400}, "min_mask_region_area is larger than"),
        ({"pred_iou_thresh": 1e308}, r"pred_iou_thresh is beyond 1e\+09"),
        ({"stability_score_offset": 10**400}, r"stability_score_offset is beyond 1e\+09"),
        ({"points_per_side": 3.5}, r"points_per_side is 3\.5, expected a whole number"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "points_per_side 3, divided by 2 .* leaves no point in layer 2",
        ),
        (
            {"points_per_side": None, "point_grids": [GRID], "crop_n_layers": 1},
            "point_grids has 1 grids, expected 2",
        ),
        ({"points_per_side": None, "point_grids": [GRID * 600]}, "reaches from .* expected 0 to 1"),
        ({"points_per_side": None, "point_grids": [GRID[0]]}, r"shape \[2\], expected \[N, 2\]"),
        ({"points_per_side": None, "point_grids": [[[np.nan, 0]]]}, "point_grids holds NaN"),
        ({"points_per_batch": 0}, "points_per_batch is 0"),
        ({"crop_n_layers": -1}, "crop_n_layers is -1"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor is 0"),
        ({"min_mask_region_area": -1}, "min_mask_region_area is -1"),
        ({"pred_iou_thresh": float("nan")}, "pred_iou_thresh is nan, expected a number"),
        ({"stability_score_thresh": "0.9"}, "stability_score_thresh is '0.9', expected a number"),
        ({"stability_score_offset": -1}, "stability_score_offset is -1, expected a number from 0 to inf"),
        ({"box_nms_thresh": 1.1}, r"box_nms_thresh is 1\.1, expected a number from 0 to 1"),
        ({"crop_nms_thresh": -0.1}, "crop_nms_thresh is -0.1"),
        ({"crop_overlap_ratio": 2}, "crop_overlap_ratio is 2"),
        ({"output_mode": "png"}, "output_mode is 'png', expected one of binary_mask, uncompressed_rle, coco"),
    ],
)
def test_refuses_in_one_line(settings: dict[str, Any], message: str, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=message):
        AutomaticMaskGenerator(predictor, **settings)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PICTURES["coffee"][:, :, 0], r"the picture is uint8 \[400, 600\], expected uint8 RGB \[H, W, 3\]"),
        (PICTURES["coffee"].tolist(), "the picture is list"),
        (np.zeros((2, 2000, 3), np.uint8), "2000 x 2 pixels is too thin"),
    ],
)
def test_refuses_pictures_in_one_line(picture: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=message):
        AutomaticMaskGenerator(predictor).generate(picture)


@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(-1, 1), offset=st.floats(0, 2))
def test_stability_is_the_overlap_of_two_masks(
    seed: int, threshold: float, offset: float, meta: SimpleNamespace
) -> None:
    logits = np.random.default_rng(seed).normal(size=(9, 7)).astype(np.float32)
    score = stability_score(logits, threshold, offset)
    high, low = logits > threshold + offset, logits > threshold - offset
    if low.any():
        assert score == np.float32(np.sum(high & low) / np.sum(high | low))
        assert score == meta.amg.calculate_stability_score(torch.from_numpy(logits), threshold, offset).item()
    else:
        assert score == 0
