"""Exports behind the page that are not as most are: prompt-aware, without plans, of the same name."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime import Predictor, Prompt, UserError
from structsam_runtime.demo.exports import Export, opened
from structsam_runtime.manifest import Model

from ..predict.test_prompt_aware import Decoder, PriorEncoder

BOX, OTHER = [100, 80, 400, 260], [10, 20, 60, 90]


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


def test_a_plan_is_read_once_for_a_picture(
    merging_folder: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    with opened([merging_folder], "cpu") as (export,):
        look = export.look(photos["coffee"])
        assert export.plan(look, 3) is export.plan(look, 3)
        other = export.look(photos["astronaut"])
        assert not np.array_equal(export.plan(other, 3).energy, export.plan(look, 3).energy)
