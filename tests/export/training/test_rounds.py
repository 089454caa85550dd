"""What a batch is asked, and what of the model that teaches."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from structsam_export.models.architectures import Architecture
from structsam_export.models.checkpoints import randomize
from structsam_export.training.data import Samples
from structsam_export.training.nano import build
from structsam_export.training.photos import Photos
from structsam_export.training.rounds import Asking, Decoder, Group, click, groups, losses


@pytest.fixture
def sam(tiny_nano: Architecture) -> Any:
    built = build(tiny_nano, 32, "cpu", None)
    randomize(built)
    return built.requires_grad_(True)


@pytest.fixture
def batch(photos: Photos) -> dict[str, Tensor]:
    samples = Samples(photos, 32, 0, 2)
    return {name: torch.stack([samples[0][name], samples[1][name]]) for name in samples[0]}


def test_decode_is_sams_own_decoder_image_by_image(sam: Any, batch: dict[str, Tensor]) -> None:
    """With what was answered before given back, too."""
    sam.requires_grad_(False)
    features = torch.randn(2, sam.prompt_encoder.embed_dim, 4, 4)
    for group in groups(batch, Asking.CLICKS):
        count = len(group.masks)
        for answer in (None, torch.randn(count, 1, 16, 16)):
            logits, iou = Decoder(sam, False)(features, group, answer)
            for image in range(2):
                part = slice(image * count // 2, (image + 1) * count // 2)
                sparse, dense = sam.prompt_encoder(
                    points=None if group.points is None else tuple(side[part] for side in group.points),
                    boxes=None if group.boxes is None else group.boxes[part],
                    masks=None if answer is None else answer[part],
                )
                expected, expected_iou = sam.mask_decoder.predict_masks(
                    features[image : image + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense
                )
                torch.testing.assert_close(logits[part], expected, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(iou[part], expected_iou, rtol=1e-4, atol=1e-4)


def test_one_click_is_answered_by_three_masks_and_all_else_by_the_first(
    sam: Any, batch: dict[str, Tensor]
) -> None:
    heads = sam.mask_decoder.output_hypernetworks_mlps

    def taught(loss: Tensor) -> list[bool]:
        sam.zero_grad()
        loss.backward()
        return [bool(head.layers[-1].bias.grad.any()) for head in heads]

    assert taught(losses(sam, batch, Asking.CLICKS, False).clicked.total) == [True, False, False, False]
    first, *others = taught(losses(sam, batch, Asking.CLICK, False).clicked.total)
    assert not first
    assert any(others)
    corrected = losses(sam, batch, Asking.CORRECTED, False).corrected
    assert corrected is not None
    assert taught(corrected[0].total + corrected[1].total) == [True, False, False, False]
    assert sam.prompt_encoder.mask_downscaling[0].weight.grad.any()  # it has seen what was answered


def test_ways_of_asking_take_turns() -> None:
    assert {Asking.at(step) for step in range(3)} == set(Asking)
    assert [Asking.at(step) for step in range(3)] == [Asking.at(step + 3) for step in range(3)]


def test_a_correction_counts_half(sam: Any, batch: dict[str, Tensor]) -> None:
    asked = losses(sam, batch, Asking.CORRECTED, False)
    assert asked.corrected is not None
    boxed, clicked = (one.total for one in asked.corrected)
    expected = (0.25 * (asked.boxed.total + boxed) + 0.75 * (asked.clicked.total + clicked)) / 2
    torch.testing.assert_close(asked.total(0.25), expected)


def test_positions_are_as_exact_in_bfloat16(sam: Any, batch: dict[str, Tensor], monkeypatch: Any) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watched(image: Tensor, place: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((place, sparse))
        return dense, dense

    monkeypatch.setattr(sam.mask_decoder, "predict_masks", watched)
    for bfloat16 in (False, True):
        features = torch.zeros(2, sam.prompt_encoder.embed_dim, 4, 4)
        Decoder(sam, bfloat16)(features, groups(batch, Asking.CLICK)[0])
    for exact, found in zip(*seen, strict=True):
        assert torch.equal(exact.bfloat16(), found)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 6), width=st.integers(1, 6))
def test_a_click_is_on_any_wrong_place_and_says_what_is_there(seed: int, height: int, width: int) -> None:
    """Beside a plain search, for chances from the first candidate to the last."""
    torch.manual_seed(seed)
    count = 12
    logits = torch.randn(count, height, width)
    masks = (torch.rand(count, height, width) > 0.5).float()
    masks[:, 0, 0] = 1
    known = (torch.rand(count, height, width) > 0.2).float()
    logits[:3] = masks[:3] * 2 - 1  # nothing is wrong
    chances = torch.rand(count)
    chances[-1] = 1 - 2**-24
    places, inside = click(logits, Group(masks, known, chances))
    for n in range(count):
        true = masks[n] > 0.5
        wrong = ((logits[n] > 0) != true) & (known[n] > 0.5)
        candidates = (wrong if wrong.any() else true).nonzero().tolist()
        row, column = candidates[int(float(chances[n]) * len(candidates))]
        assert places[n].tolist() == [2 * column + 0.5, 2 * row + 0.5]
        assert bool(inside[n]) == bool(true[row, column])


def test_a_further_click_is_behind_those_before() -> None:
    group = Group(torch.zeros(2, 4, 4), torch.ones(2, 4, 4), torch.zeros(2), boxes=torch.zeros(2, 4))
    places, inside = torch.rand(2, 2), torch.tensor([True, False])
    once = group.with_click(places, inside)
    twice = once.with_click(places + 1, ~inside)
    assert once.points is not None
    assert twice.points is not None
    assert torch.equal(twice.points[0], torch.stack([places, places + 1], 1))
    assert twice.points[1].tolist() == [[1, 0], [0, 1]]
    assert group.points is None
