"""Scores by source."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from structsam_export.models.architectures import Architecture
from structsam_export.training.data import Example
from structsam_export.training.nano import build
from structsam_export.training.photos import UNKNOWN, Photos
from structsam_export.training.validate import DRAWN, answers, validate


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
