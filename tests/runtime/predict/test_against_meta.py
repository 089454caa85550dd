"""The predictor on an export, against Meta's SamPredictor on the weights that it was made from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data

from structsam_export.config import ExportConfig
from structsam_export.pipeline import load
from structsam_runtime import Predictor, Prompt
from structsam_runtime.manifest import content

IOU = 0.999
PICTURES = {"coffee": skimage.data.coffee(), "chelsea": skimage.data.chelsea()}

pytestmark = pytest.mark.xdist_group("against_meta")  # one export for all


@pytest.fixture(scope="module")
def both(exported: Callable[..., Path], meta: SimpleNamespace) -> Iterator[tuple[Predictor, Any]]:
    """Ours on an unmerged export of a small SAM with random weights, and Meta's on its modules."""
    folder = exported(rate=0.0)
    sam = load(ExportConfig.from_json(content(folder)["arguments"]))
    with Predictor.load(folder, threads=1) as ours:
        yield ours, meta.SamPredictor(sam)


PROMPTS: dict[str, dict[str, Any]] = {
    "a box": {"box": np.array([120, 60, 330, 260])},
    "a point": {"point_coords": np.array([[200, 150]]), "point_labels": np.array([1])},
    "points": {
        "point_coords": np.array([[200, 150], [90.5, 40], [150, 250]]),
        "point_labels": np.array([1, 0, 1]),
    },
    "a box and a point": {
        "box": np.array([120, 60, 330, 260]),
        "point_coords": np.array([[200, 150]]),
        "point_labels": np.array([0]),
    },
}


def overlap(ours: Any, theirs: Any) -> float:
    """IoU of two stacks of masks, the lowest."""
    both, either = (ours & theirs).sum(axis=(-2, -1)), (ours | theirs).sum(axis=(-2, -1))
    return float((both / np.maximum(either, 1)).min())


def check(ours: Any, theirs: Any) -> None:
    """Masks, predicted IoU and logits of one prompt."""
    masks, iou, low_res = theirs
    share = masks.mean(axis=(1, 2))
    assert ((share > 0.01) & (share < 0.99)).all(), "masks that are neither nothing nor everything"
    assert overlap(ours[0], masks) >= IOU
    np.testing.assert_allclose(ours[1], iou, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[2], low_res, rtol=0, atol=1e-4 * np.abs(low_res).max())


@pytest.mark.parametrize("what", PROMPTS)
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("picture", PICTURES)
def test_masks_are_metas(both: Any, picture: str, what: str, multimask: bool) -> None:
    ours, theirs = both
    for predictor in both:
        predictor.set_image(PICTURES[picture])
    asked = PROMPTS[what] | {"multimask_output": multimask}
    first = theirs.predict(**asked)
    check(ours.predict(**asked), first)
    again = asked | {"mask_input": first[2][:1]}  # refined by an earlier mask
    check(ours.predict(**again), theirs.predict(**again))


def test_a_mask_alone_is_a_prompt(both: Any) -> None:
    ours, theirs = both
    for predictor in both:
        predictor.set_image(PICTURES["coffee"])
    _, _, earlier = theirs.predict(**PROMPTS["a box"], multimask_output=False)
    check(ours.predict(mask_input=earlier), theirs.predict(mask_input=earlier))


def test_mixed_prompts_of_one_call_are_metas_one_by_one(both: Any) -> None:
    ours, theirs = both
    for predictor in both:
        predictor.set_image(PICTURES["chelsea"])
    singles = [theirs.predict(**asked) for asked in PROMPTS.values()]
    many = ours.predict_many([Prompt(**asked) for asked in PROMPTS.values()])
    for index, single in enumerate(singles):
        check([values[index] for values in many], single)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 5000), (5000, 10), (1, 300), (257, 255)])
def test_extreme_pictures_are_metas(both: Any, height: int, width: int) -> None:
    """Down to a pixel, and so thin that the short side is a token or less of the model's square."""
    ours, theirs = both
    picture = np.resize(PICTURES["coffee"], (height, width, 3))
    for predictor in both:
        predictor.set_image(picture)
    np.testing.assert_array_equal(ours.frame.resized_width, theirs.input_size[1])
    asked = {"box": np.array([0, 0, width, height]), "multimask_output": False}
    masks, iou, _ = theirs.predict(**asked)
    own, own_iou, _ = ours.predict(**asked)
    assert own.shape == masks.shape == (1, height, width)
    np.testing.assert_allclose(own_iou, iou, rtol=0, atol=1e-4)
    assert (own == masks).mean() >= IOU  # a mask may be empty here, so pixels are compared
