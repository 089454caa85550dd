"""Training on pictures of 80 x 60 pixels with a SAM of four blocks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from structsam_export.models.architectures import DEFAULT
from structsam_export.models.checkpoints import build_sam, randomize
from structsam_export.training import loop
from structsam_export.training.curves import plot
from structsam_export.training.data import Photos, Samples
from structsam_export.training.loop import (
    Settings,
    Stage,
    begin,
    content,
    decode,
    losses,
    read,
    restore,
    resume,
    train,
)
from structsam_export.training.validate import Scores, box_ious, validate
from structsam_runtime.errors import UserError

STAGES = (Stage(0, 32, 2), Stage(4, 64, 1))


def settings(folder: Path, steps: int, stages: tuple[Stage, ...] = STAGES) -> Settings:
    folder.mkdir(exist_ok=True)
    return Settings(folder, steps, workers=0, stages=stages)


@pytest.fixture
def quick(small_nano: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training whose validation takes no time."""
    monkeypatch.setattr(loop, "validate", lambda sam, photos: Scores(0.5, 0.25, (2, 3)))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_nano_fits_in_a_package() -> None:
    sam = build_sam(DEFAULT)
    numbers = sum(value.numel() for value in sam.state_dict().values())
    assert 3e6 < numbers < 8e6  # times two bytes in half precision: under 16 MB
    assert sam.image_encoder(torch.zeros(1, 3, 512, 512)).shape == (1, 128, 32, 32)


def test_pace_rises_stays_and_falls(tmp_path: Path) -> None:
    long = Settings(tmp_path, 1000)
    assert long.decay_from == 250
    assert long.pace(0) == 1 / 60
    assert [long.pace(step) for step in (59, 100, 250)] == [1, 1, 1]
    assert long.pace(625) == 0.5
    assert long.pace(999) == 1 / 750


def test_a_run_from_weights_warms_up_and_falls_in_its_own_steps(tmp_path: Path) -> None:
    later = Settings(tmp_path, 9000, first=8000)
    assert later.decay_from == 8250
    assert [later.pace(step) for step in (8000, 8059, 8250, 8625, 8999)] == [1 / 60, 1, 1, 0.5, 1 / 750]


def test_stages_by_step(tmp_path: Path) -> None:
    short = settings(tmp_path, 9)
    assert [short.stage(step).size for step in (0, 3, 4, 8)] == [32, 32, 64, 64]


@pytest.mark.usefixtures("small_nano")
def test_decode_is_sams_own_decoder_image_by_image(tmp_path: Path) -> None:
    sam = begin(settings(tmp_path, 1)).sam.eval()
    randomize(sam)
    features = torch.randn(2, sam.prompt_encoder.embed_dim, 2, 2)
    boxes = torch.rand(6, 4) * 32
    logits, iou = decode(sam, features, bfloat16=False, boxes=boxes)
    for image in range(2):
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes[3 * image : 3 * image + 3], masks=None)
        expected, expected_iou = sam.mask_decoder.predict_masks(
            features[image : image + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
        part = slice(3 * image, 3 * image + 3)
        torch.testing.assert_close(logits[part], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(iou[part], expected_iou, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_nano")
def test_one_click_is_answered_by_three_masks_and_all_else_by_the_first(
    photos: Photos, tmp_path: Path
) -> None:
    sam = begin(settings(tmp_path, 1)).sam
    batch = {name: value[None] for name, value in Samples(photos, 32, 0, 1)[0].items()}
    heads = sam.mask_decoder.output_hypernetworks_mlps

    def taught(clicks: int) -> list[bool]:
        sam.zero_grad()
        losses(sam, batch, clicks, bfloat16=False)[1].total.backward()
        return [bool(head.layers[-1].bias.grad.any()) for head in heads]

    assert taught(3) == [True, False, False, False]
    first, *others = taught(1)
    assert not first
    assert any(others)


@pytest.mark.usefixtures("quick")
def test_a_run_that_resumes_is_the_run_that_did_not_stop(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, across a change of the image size and into the decay."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = settings(tmp_path / "whole", 8)
    run = begin(whole)
    train(run, whole, photos, lambda record: None)

    class Stop(Exception):
        pass

    def interrupt(record: dict[str, Any]) -> None:
        if record["step"] == 6 and "loss" in record:
            raise Stop

    parted = settings(tmp_path / "parted", 8)
    first = begin(parted)
    with pytest.raises(Stop):
        train(first, parted, photos, interrupt)
    second = resume(parted)
    assert second.step == 5  # the sixth was done but not saved
    train(second, parted, photos, lambda record: None)
    assert same(run.sam.state_dict(), second.sam.state_dict())
    assert same(run.average.state_dict(), second.average.state_dict())

    def curve(name: str) -> list[float]:
        lines = [json.loads(line) for line in (tmp_path / name / "curves.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    assert curve("whole") == curve("parted")
    assert len(curve("whole")) == 8
    plot(whole.curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.usefixtures("quick")
def test_a_longer_run_goes_on_from_before_the_decay(photos: Photos, tmp_path: Path) -> None:
    short = settings(tmp_path, 8)
    train(begin(short), short, photos, lambda record: None)
    assert resume(short).step == 8
    assert resume(settings(tmp_path, 20)).step == short.decay_from == 2


@pytest.mark.usefixtures("small_nano")
def test_a_size_changes_only_positions(tmp_path: Path) -> None:
    short = settings(tmp_path, 1)
    run = begin(short)
    randomize(run.sam)
    larger = restore(content(run, short), 64, "cpu").sam.state_dict()
    own = run.sam.state_dict()
    changed = {name for name in own if not torch.equal(own[name], larger[name])}
    assert "image_encoder.pos_embed" in changed
    assert all("pos" in name for name in changed)


def test_no_checkpoint_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        read(tmp_path / "last.pt")


@pytest.mark.usefixtures("small_nano")
def test_validation_compares_in_the_pictures_pixels(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that fills a known part of the input, on a picture that is scaled and padded."""
    sam = begin(settings(tmp_path, 1)).average
    photo = photos.held_out[0]  # 80 x 60 becomes 32 x 24, and the decoder answers with 8 x 8

    def left_half(*_: object, sparse_prompt_embeddings: Tensor, **__: object) -> tuple[Tensor, None]:
        logits = -torch.ones(len(sparse_prompt_embeddings), 1, 8, 8)
        logits[..., :4] = 1
        return logits, None

    monkeypatch.setattr(sam.mask_decoder, "forward", left_half)
    labels = torch.ones(60, 80, dtype=torch.uint8).numpy()
    labels[:, 40:] = 2
    ious = box_ious(sam, np.asarray(photo.image), labels, [1, 2])
    assert ious[0] > 0.95
    assert ious[1] < 0.05
    scores = validate(sam, photos)
    assert scores.prompts[0] == len(photos.held_out)
    assert 0 <= scores.thin <= scores.photos <= 1
