"""Scores by source."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from structsam_export.models.architectures import Architecture
from structsam_export.training.data import Example
from structsam_export.training.nano import build
from structsam_export.training.photos import UNKNOWN, Photos
from structsam_export.training.validate import DRAWN, _deepest, answers, validate


@pytest.fixture
def left_half(tiny_nano: Architecture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Sam that answers with the left half of a picture of 80 x 60, with nothing, and with everything.

    80 x 60 becomes 32 x 24 of the input, and the decoder answers with 16 x 16.
    """
    sam = build(tiny_nano, 32, "cpu", None)

    def decoder(*_: object, sparse_prompt_embeddings: Tensor, multimask_output: bool, **__: object) -> Any:
        count = len(sparse_prompt_embeddings)
        logits = -torch.ones(count, 3 if multimask_output else 1, 16, 16)
        logits[:, -1] = 1
        logits[:, 0] = -1
        logits[:, 0, :, :8] = 1
        iou = torch.tensor([[0.75, 0.2, 0.3]]).expand(count, -1)
        return logits, iou[:, : logits.shape[1]]

    monkeypatch.setattr(sam.mask_decoder, "forward", decoder)
    return sam


def test_answers_are_compared_in_the_pictures_pixels(left_half: Any) -> None:
    labels = np.ones((60, 80), np.uint8)
    labels[:, 40:] = 2
    rows = answers(left_half, Example(np.zeros((60, 80, 3), np.uint8), labels, (1, 2)))
    assert rows.shape == (2, 4)
    assert (rows[0, [0, 2]] > 0.95).all()  # by box and by click
    assert (rows[1, [0, 2]] < 0.05).all()
    assert rows[:, [1, 3]].ravel().tolist() == pytest.approx([0.75] * 4)
    labels[:, 30:40] = UNKNOWN
    rows = answers(left_half, Example(np.zeros((60, 80, 3), np.uint8), labels, (1,)))
    assert (rows[0, [0, 2]] > 0.95).all()  # what is answered there does not count


def test_every_source_has_its_score(left_half: Any, every: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = validate(left_half, every, scenes=2)
    assert list(scores) == ["coco-train", "powerlines_pld", DRAWN]  # other objects are too small to count
    assert scores["coco-train"].objects == 20
    assert validate(left_half, every, pictures=3, scenes=1)["coco-train"].objects == 3
    for score in scores.values():
        assert 0 <= score.box <= 1
        assert score.click == pytest.approx(score.box)
        assert score.error <= 0.75


@given(seed=st.integers(0, 10**6), height=st.integers(1, 12), width=st.integers(1, 12))
def test_the_deepest_place_is_farthest_from_all_that_is_outside(seed: int, height: int, width: int) -> None:
    """Beyond the picture is outside."""
    mask = np.random.default_rng(seed).random((height, width)) > 0.2
    mask[height // 2, width // 2] = True
    column, row = _deepest(mask).astype(int)
    depth = ndimage.distance_transform_edt(np.pad(mask, 20))[20:-20, 20:-20]
    assert depth[row, column] == depth.max()


def test_positions_are_as_exact_in_bfloat16(left_half: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that bfloat16 cannot tell apart are told apart."""
    seen: list[Tensor] = []
    forward = left_half.mask_decoder.forward

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(named["sparse_prompt_embeddings"])
        return forward(*arguments, **named)

    monkeypatch.setattr(left_half.mask_decoder, "forward", watched)
    labels = np.ones((60, 80), np.uint8)
    example = Example(np.zeros((60, 80, 3), np.uint8), labels, (1,))
    answers(left_half, example)
    with torch.autocast("cpu", torch.bfloat16):
        answers(left_half, example)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
