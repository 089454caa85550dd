"""The predictor on an encoder that takes a prior: what it is asked for, and when it is asked again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime import AutomaticMaskGenerator, Predictor, Prompt, UserError
from structsam_runtime.evaluation.datasets import Annotated, Object
from structsam_runtime.evaluation.run import look
from structsam_runtime.manifest import Model
from structsam_runtime.predict.prior import prior
from structsam_runtime.runners.base import Array, Runner, TensorSpec

FLOAT = np.dtype(np.float32)
BOX, OTHER = [100, 80, 400, 260], [10, 20, 60, 90]


class PriorEncoder(Runner):
    """Its embedding is the prior in every channel; it counts how often it ran."""

    runs = 0

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        image, grid = TensorSpec(FLOAT, (1, 3, 1024, 1024)), TensorSpec(FLOAT, (1, 64, 64))
        return {"image": image, "prior": grid}, {"image_embedding": TensorSpec(FLOAT, (1, 256, 64, 64))}

    def _close(self) -> None:
        pass

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        self.runs += 1
        return {"image_embedding": np.repeat(feeds["prior"][:, None], 256, axis=1)}


class Decoder(Runner):
    """Masks of nothing, whose predicted IoU is the mean of the embedding."""

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        shapes: dict[str, tuple[int | str, ...]] = {
            "image_embedding": (1, 256, 64, 64),
            "point_coords": ("P", "N", 2),
            "mask_input": ("P", 1, 256, 256),
            "has_mask_input": ("P",),
        }
        inputs = {name: TensorSpec(FLOAT, shape) for name, shape in shapes.items()}
        inputs["point_labels"] = TensorSpec(np.dtype(np.int32), ("P", "N"))
        masks, iou = TensorSpec(FLOAT, ("P", 4, 256, 256)), TensorSpec(FLOAT, ("P", 4))
        return inputs, {"masks": masks, "iou_predictions": iou}

    def _close(self) -> None:
        pass

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        count = len(feeds["point_coords"])
        quality = np.full((count, 4), feeds["image_embedding"].mean(), np.float32)
        return {"masks": np.zeros((count, 4, 256, 256), np.float32), "iou_predictions": quality}


@pytest.fixture
def predictor(sam: Model, photos: dict[str, NDArray[np.uint8]]) -> Iterator[Predictor]:
    """With the photograph chelsea (300 x 451) set."""
    with Predictor(PriorEncoder("encoder"), Decoder("decoder"), replace(sam, prior=True)) as predictor:
        predictor.set_image(photos["chelsea"])
        yield predictor


def runs(predictor: Predictor) -> int:
    encoder = predictor.encoder
    assert isinstance(encoder, PriorEncoder)
    return encoder.runs


def seen(predictor: Predictor) -> NDArray[np.float32]:
    """The prior that the embedding was made with, [64, 64]."""
    return predictor.embedding.features[0, 0]


def test_the_picture_is_encoded_with_the_first_prompt_and_again_when_prompts_move(
    predictor: Predictor,
) -> None:
    assert runs(predictor) == 0
    predictor.predict(box=BOX)
    assert runs(predictor) == 1
    in_model = predictor.frame.to_model(np.array(BOX, np.float64).reshape(2, 2)).reshape(1, 4)
    np.testing.assert_array_equal(seen(predictor), prior(predictor.model, in_model.astype(np.float32))[0])
    predictor.predict(box=BOX, multimask_output=False)
    predictor.predict(box=BOX, mask_input=np.zeros((1, 256, 256)))
    assert runs(predictor) == 1
    predictor.predict(box=OTHER)
    assert runs(predictor) == 2
    predictor.predict(box=BOX)
    assert runs(predictor) == 3


def test_all_prompts_of_a_call_share_one_encoding(predictor: Predictor) -> None:
    predictor.predict_many([Prompt(box=BOX), Prompt(box=OTHER), Prompt([[440, 290]], [1])])
    assert runs(predictor) == 1
    together = seen(predictor)
    for asked in (Prompt(box=BOX), Prompt(box=OTHER), Prompt([[440, 290]], [1])):
        predictor.predict_many([asked])
        assert (seen(predictor) > 0).any()
        assert (seen(predictor) <= together).all()


def test_background_points_and_masks_move_nothing(predictor: Predictor) -> None:
    predictor.predict(box=BOX)
    predictor.predict([[20, 20]], [0], box=BOX)
    predictor.predict(mask_input=np.zeros((1, 256, 256)))
    assert runs(predictor) == 1


def test_without_a_prompt_the_prior_is_empty(
    predictor: Predictor, photos: dict[str, NDArray[np.uint8]]
) -> None:
    assert not seen(predictor).any()
    (embedding,) = predictor.encode([photos["coffee"]])
    assert not embedding.features.any()


def test_an_embedding_stays_what_it_is(predictor: Predictor) -> None:
    predictor.predict(box=BOX)
    predictor.set_embedding(predictor.embedding)
    before = runs(predictor)
    _, iou, _ = predictor.predict(box=OTHER)
    assert runs(predictor) == before
    assert iou[0] == pytest.approx(seen(predictor).mean(), rel=1e-6)


def test_everything_mode_encodes_once(predictor: Predictor, photos: dict[str, NDArray[np.uint8]]) -> None:
    AutomaticMaskGenerator(predictor, points_per_side=4, points_per_batch=4).generate(photos["chelsea"])
    assert runs(predictor) == 1


def test_everything_mode_takes_an_embedding_that_is_there(
    predictor: Predictor, photos: dict[str, NDArray[np.uint8]]
) -> None:
    (embedding,) = predictor.encode([photos["chelsea"]])
    everything = AutomaticMaskGenerator(predictor, points_per_side=4, crop_n_layers=1)
    everything.generate(photos["chelsea"], embedding)
    assert runs(predictor) == 1 + 4  # and the crops


def test_evaluation_encodes_anew_for_every_object(
    predictor: Predictor, photos: dict[str, NDArray[np.uint8]]
) -> None:
    """And once without prompts, which is what is timed."""

    class Picture(Annotated):
        def image(self) -> NDArray[np.uint8]:
            return photos["chelsea"]

        def _decode(self) -> list[Object]:
            return []

    boxes = [(100.0, 80.0, 400.0, 260.0), (10.0, 20.0, 60.0, 90.0)]
    nothing = np.zeros((300, 451), np.bool_)
    picture = Picture(name="chelsea", picture=Path("none.png"))
    found = look(picture, predictor, [(nothing, box) for box in boxes], None)
    assert runs(predictor) == 1 + len(boxes)
    for one, box in zip(found.objects, boxes, strict=True):
        assert one.score == pytest.approx(float(predictor.predict(box=box)[1][0]), rel=1e-6)


def test_a_wrong_prompt_runs_nothing(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="turned around"):
        predictor.predict(box=[9, 9, 1, 1])
    assert runs(predictor) == 0
