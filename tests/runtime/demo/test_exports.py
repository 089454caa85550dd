"""Exports behind the page that are not as most are: prompt-aware, without plans, of the same name."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime import Embedding, Predictor, Prompt, UserError
from structsam_runtime.demo.exports import Export, Look, opened
from structsam_runtime.demo.store import Picture
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.runners.base import Array, TensorSpec

from ..predict.test_prompt_aware import Decoder, PriorEncoder

BOX, OTHER = [100, 80, 400, 260], [10, 20, 60, 90]


class Encoder(PriorEncoder):
    """An engine of zeros, as one of TensorRT: not ONNX Runtime's."""

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        inputs, outputs = super()._open()
        return {"image": inputs["image"]}, outputs

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        return {"image_embedding": np.zeros((1, 256, 64, 64), np.float32)}


def test_a_prompt_aware_encoder_looks_where_the_prompt_is(
    sam: Model, photos: dict[str, NDArray[np.uint8]]
) -> None:
    rgb = photos["chelsea"]
    model = replace(sam, prior=True)
    with ExitStack() as stack:
        predictor = stack.enter_context(Predictor(PriorEncoder("encoder"), Decoder("decoder"), model))
        export = Export("aware", Path("aware"), predictor, {"plans": []}, stack)
        look = export.look(rgb)
        assert not look.embedding.features.any()  # what is looked at before there is a prompt
        predictor.set_image(rgb)
        for box in (BOX, OTHER, BOX):
            answer = export.answer(look, Prompt(box=box), [0], *rgb.shape[:2])
            masks, iou, _ = predictor.predict(box=box, multimask_output=False)
            assert answer.iou[0] == iou[0] > 0
            np.testing.assert_array_equal(answer.masks, masks)
        assert export.about()["no_blocks"] == "a prompt-aware encoder plans anew for every prompt"
        with pytest.raises(UserError, match="block 0 of aware tells no plan; a prompt-aware encoder plans"):
            export.plan(look, 0)


def test_exports_of_one_name_are_told_apart(export_folder: Path) -> None:
    with opened([export_folder] * 3, "cpu") as exports:
        assert [export.name for export in exports] == ["stand-in", "stand-in (2)", "stand-in (3)"]


@pytest.fixture(scope="module")
def export(export_folder: Path) -> Iterator[Export]:
    with opened([export_folder], "cpu") as (export,):
        yield export


@given(height=st.integers(1, 400), width=st.integers(1, 400), side=st.integers(1, 400))
@example(height=5, width=1000, side=100)  # scaled by itself, 1 x 100 would be twice as high as 5 x 1000
def test_all_masks_are_looked_for_on_the_picture_at_any_size(
    export: Export, height: int, width: int, side: int
) -> None:
    """At the same places of what was encoded, none of them on padding."""
    frame = Frame.of(height, width, 1024)
    picture = Picture("", height, width, b"", {})
    embedding = Embedding(np.zeros((1, 256, 64, 64), np.float32), frame, export.predictor.weights)
    look = Look(np.zeros(0, np.uint8), embedding, 0)
    decoder = export.predictor.decoder
    with patch.object(decoder, "infer", wraps=decoder.infer) as infer:
        settings = {"points_per_side": 2, "pred_iou_thresh": 2}  # no mask is as good
        export.everything(look, settings, *picture.fitted(side))
    (asked,), _ = infer.call_args
    quarter = np.array([frame.resized_width, frame.resized_height]) / 4
    expected = quarter * [[1, 1], [3, 1], [1, 3], [3, 3]]
    np.testing.assert_allclose(asked["point_coords"][:, 0], expected, rtol=1e-5)


def test_engines_show_no_plans(sam: Model) -> None:
    with ExitStack() as stack:
        predictor = stack.enter_context(Predictor(Encoder("encoder"), Decoder("decoder"), sam))
        export = Export("engine", Path("engine"), predictor, {"plans": []}, stack)
        told = "only ONNX Runtime shows plans: --runner cpu or cuda"
        assert export.about()["no_blocks"] == told
        with pytest.raises(UserError, match=f"block 0 of engine tells no plan; {told}"):
            export.plan(export.look(np.zeros((8, 8, 3), np.uint8)), 0)


def test_a_name_that_is_no_utf_8_is_written_out(tmp_path: Path, make_export: Callable[[Path], Path]) -> None:
    path = make_export(tmp_path) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "caf\udce9"}))
    with opened([tmp_path], "cpu") as (export,):
        assert export.name == "caf\\udce9"


def test_a_plan_is_read_once_for_a_picture(
    merging_folder: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    with opened([merging_folder], "cpu") as (export,):
        look = export.look(photos["coffee"])
        assert export.plan(look, 3) is export.plan(look, 3)
        other = export.look(photos["astronaut"])
        assert not np.array_equal(export.plan(other, 3).energy, export.plan(look, 3).energy)
