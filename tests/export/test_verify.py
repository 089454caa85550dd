"""What verification asks of an export: that its runners compute what PyTorch does, and by which plans."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from structsam_export.choices import Flatness
from structsam_export.comparing import TorchRunner
from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.encoder import apply, merged_blocks
from structsam_export.encoder.decoder import PromptedMaskDecoder
from structsam_export.encoder.exported import PlannedEncoder, output_names, told_plans
from structsam_export.merging import Identity, Method, StructSAM
from structsam_export.merging.methods.pitome import PiToMe
from structsam_export.models.checkpoints import load_sam
from structsam_export.verify import (
    Answered,
    Report,
    Sample,
    _agreement,
    _by_block,
    _planned,
    _replayed,
    priors,
    read_pictures,
    samples,
    verify,
)
from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.runners.base import Array, Runner, TensorSpec
from structsam_runtime.thresholds import THRESHOLDS

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]


def methods(flatness: Flatness) -> list[Method]:
    """Of a window block and a global one."""
    around = StructSAM(0.6, flatness=flatness)
    return [StructSAM(0.6, flatness=flatness, prompt_windows=1, rate_prompt=0.3), around]


@pytest.mark.parametrize("other", Flatness)
def test_pytorch_replays_the_plans_of_another_run_and_returns_its_own(
    build_encoder: Build, photographs: Photographs, sam: Model, other: Flatness
) -> None:
    """The other run stands for an export; its flatness is another, so that it merges other cells."""
    encoder, image = build_encoder(320, depth=2, global_attn_indexes=(1,)), photographs(320)[:1]
    prior = torch.zeros(1, 20, 20)
    prior[:, 15:19, 4:12] = 1
    feed = {"image": image.numpy(), "prior": prior.numpy()}
    names = output_names_of(encoder, methods(other))
    theirs = {n: v.numpy() for n, v in zip(names, PlannedEncoder(encoder)(image, prior), strict=True)}
    own = methods(Flatness.MAX)
    apply(encoder, own)
    (made,) = _replayed(encoder, [theirs], [feed])
    assert [block.method for block in merged_blocks(encoder)] == own, "the encoder is left as it was"
    assert np.abs(made["image_embedding"] - theirs["image_embedding"]).max() <= 1e-5
    assert made.keys() == theirs.keys()
    agreement = {
        index: _agreement(made, theirs, plans) for index, plans in _by_block(told_plans(encoder)).items()
    }
    assert agreement.keys() == {0, 1}
    if other is Flatness.MAX:
        assert set(agreement.values()) == {1.0}
    else:
        assert all(0.3 < share < 1 for share in agreement.values())


def test_blocks_that_follow_another_one_follow_the_export_too(
    build_encoder: Build, photographs: Photographs
) -> None:
    """PyTorch's own decision is told of the leaders alone, from what enters them."""
    encoder, image = build_encoder(320), photographs(320)[:1]
    apply(encoder, [StructSAM(0.55, flatness=Flatness.MEAN)] * 4, leaders=[None, None, 0, 1])
    names = output_names(encoder)
    theirs = {n: v.numpy() for n, v in zip(names, PlannedEncoder(encoder)(image), strict=True)}
    apply(encoder, [StructSAM(0.55)] * 4, leaders=[None, None, 0, 1])
    (made,) = _replayed(encoder, [theirs], [{"image": image.numpy()}])
    assert names == [
        "image_embedding",
        *(f"blocks.{i}.{what}" for i in (0, 1) for what in ("slot", "position")),
    ]
    assert set(made) == set(names)
    assert np.abs(made["image_embedding"] - theirs["image_embedding"]).max() <= 1e-5
    assert not np.array_equal(made["blocks.0.slot"], theirs["blocks.0.slot"])
    apply(encoder, [StructSAM(0.55)] * 4)
    first = merged_blocks(encoder)[0].decide(encoder.patch_embed(image) + encoder.pos_embed)
    assert np.array_equal(made["blocks.0.slot"], first[0].slot.numpy())


def output_names_of(encoder: Any, which: list[Method]) -> list[str]:
    apply(encoder, which)
    return output_names(encoder)


def test_priors_are_of_nothing_one_box_and_two(sam: Model) -> None:
    made = list(priors(Frame.of(400, 600, 1024), sam).values())
    covered = [float(prior.sum()) for prior in made]
    assert covered[0] == 0
    assert covered[1] == pytest.approx((1024 / 3 / 16 + 1 / 16) * (683 / 3 / 16 + 1 / 16), rel=1e-6)
    assert covered[2] > covered[1]
    assert all((prior[:, 43:] == 0).all() for prior in made), "below the picture there is none"


# The gate


class Changed(Runner):
    """A runner whose outputs somebody changed."""

    def __init__(self, inner: Runner, change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
        super().__init__("changed")
        self.inner, self.change = inner, change

    def _open(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        self.inner.__enter__()
        return dict(self.inner.inputs), dict(self.inner.outputs)

    def _close(self) -> None:
        self.inner.__exit__(None, None, None)

    def _run(self, feeds: Any) -> dict[str, Array]:
        return self.change(self.inner.infer(feeds))


def merge(encoder: Any, rate: float) -> None:
    """Let an encoder merge in every block."""
    apply(encoder, [StructSAM(rate) if rate else Identity()] * len(encoder.blocks))


class Shipped:
    """Stand-ins for the runners of an export, which compute in PyTorch what an export does elsewhere.

    Attributes:
        encoder, decoder, tap: as `verify` takes them.
    """

    def __init__(self, tiny: str) -> None:
        config = ExportConfig(tiny, random_weights=True, image_size=224)
        self.sam = load_sam(tiny, 224, None, random_weights=True)
        self.model = model_of(config, self.sam)
        self.module = PromptedMaskDecoder(self.sam).eval()
        self.pictures: list[Sample] = samples(read_pictures(None), self.model)[:2]
        self.merge(0.55)
        self.encoder: Runner = self.of(0.55)
        self.tap: Runner | None = _planned(self.sam.image_encoder, self.model)
        self.decoder: Runner = TorchRunner(self.module, *decoder_specs(self.model))

    def merge(self, rate: float) -> None:
        """Let PyTorch's encoder merge."""
        merge(self.sam.image_encoder, rate)

    def of(self, rate: float) -> TorchRunner:
        """A runner of the encoder that gives no plans, and merges at a rate of its own."""
        copy = load_sam("tiny", 224, None, random_weights=True).image_encoder
        merge(copy, rate)
        return TorchRunner(copy, *encoder_specs(self.model))

    def report(self) -> Report:
        """Of the runners as they are now."""
        return self.verified()[0]

    def verified(self) -> tuple[Report, list[Answered]]:
        """The same, and what PyTorch made of the pictures."""
        return verify(
            self.sam.image_encoder, self.module, self.model,
            self.encoder, self.decoder, self.tap, self.pictures, "stand-in",
        )  # fmt: skip


@pytest.fixture
def shipped(tiny: str) -> Shipped:
    """Of a small SAM at rate 0.55."""
    return Shipped(tiny)


def missed(report: Report) -> set[str]:
    """What was not reached."""
    return {miss.split(" is ")[0] for miss in report.misses("fp32")}


def test_an_export_that_computes_the_same_passes(shipped: Shipped) -> None:
    report = shipped.report()
    assert missed(report) == set()
    assert (report.error, report.plans, report.mask_iou, report.prompts) == (0, 1, 1, 36)
    assert report.plans_by_block == dict.fromkeys(range(4), 1.0)


def test_a_scaled_embedding_is_a_miss(shipped: Shipped) -> None:
    shipped.encoder = Changed(
        shipped.encoder, lambda made: {name: 1.01 * values for name, values in made.items()}
    )
    report = shipped.report()
    assert missed(report) == {"largest embedding error"}
    assert report.cosine == pytest.approx(1)


def test_the_worst_picture_counts(shipped: Shipped) -> None:
    """Only the second embedding is turned around."""
    calls = iter((1.0, -1.0))

    def turn(made: dict[str, Array]) -> dict[str, Array]:
        sign = np.float32(next(calls))
        return {name: sign * values for name, values in made.items()}

    shipped.encoder = Changed(shipped.encoder, turn)
    report = shipped.report()
    assert report.cosine == pytest.approx(-1)
    assert report.cosine_end_to_end == pytest.approx(-1)
    assert report.error is not None
    assert report.error > 1


@pytest.mark.parametrize("precision", THRESHOLDS)
def test_a_value_on_its_limit_is_no_miss(precision: str) -> None:
    measured = {field.name for field in dataclasses.fields(Report)}
    limits = {name: limit for name, limit in vars(THRESHOLDS[precision]).items() if name in measured}
    assert len(limits) == 5, "and those of a check alone"
    report = Report("stand-in", [], plans_by_block={}, mask_iou_min=0, prompts=0, **limits)
    assert report.misses(precision) == []
    beyond = dataclasses.replace(
        report, **{name: value * (1.01 if name == "error" else 0.99) for name, value in limits.items()}
    )
    assert len(beyond.misses(precision)) == len(limits)


def test_noise_in_the_masks_is_a_miss(shipped: Shipped) -> None:
    noise = np.random.default_rng(0)

    def add(made: dict[str, Array]) -> dict[str, Array]:
        masks = made["masks"]
        return made | {"masks": masks + masks.std() * noise.normal(size=masks.shape).astype(np.float32)}

    shipped.decoder = Changed(shipped.decoder, add)
    assert missed(shipped.report()) == {"mask IoU"}


def test_plans_do_not_speak_for_an_encoder_that_merges_otherwise(shipped: Shipped) -> None:
    """The tap tells PyTorch's own plans, and only the file that ships is another."""
    shipped.encoder = shipped.of(0.35)
    report = shipped.report()
    assert report.plans == 1
    assert "largest embedding error" in missed(report)


def test_plans_of_another_run_are_followed_and_counted(shipped: Shipped) -> None:
    """The file that ships computes PyTorch's embedding, but the plans that are told are not its own."""

    def reverse(made: dict[str, Array]) -> dict[str, Array]:
        return {n: values[:, ::-1].copy() if n.endswith("slot") else values for n, values in made.items()}

    assert shipped.tap is not None
    shipped.tap = Changed(shipped.tap, reverse)
    report = shipped.report()
    assert {"largest embedding error", "plan agreement"} <= missed(report)
    assert report.cosine_end_to_end == pytest.approx(1)


def test_without_a_tap_only_what_is_computed_end_to_end_is_held(shipped: Shipped) -> None:
    shipped.tap = None
    report = shipped.report()
    assert (report.error, report.cosine, report.plans, report.plans_by_block) == (None, None, None, {})
    assert missed(report) == set()
    shipped.encoder = shipped.of(0.75)
    assert missed(shipped.report())


def test_a_fragile_method_is_known_for_one_without_a_tap(shipped: Shipped) -> None:
    """As of an engine: its masks may differ, and so it is held to what no valid run misses."""
    encoder = shipped.sam.image_encoder
    apply(encoder, [PiToMe(0.5)] * len(encoder.blocks))
    shipped.encoder, shipped.tap = TorchRunner(encoder, *encoder_specs(shipped.model)), None
    assert shipped.report().fragile
    shipped.encoder = Changed(shipped.encoder, lambda made: {n: -v for n, v in made.items()})
    assert missed(shipped.report()) == {"embedding cosine end to end"}


def test_the_answers_are_those_of_pytorch_and_of_the_export(shipped: Shipped) -> None:
    """As a reference keeps them: the same prompts for both, each with its own embedding."""
    shipped.encoder = Changed(shipped.encoder, lambda made: {n: v + 1 for n, v in made.items()})
    _, answered = shipped.verified()
    for one, picture in zip(answered, shipped.pictures, strict=True):
        assert one.sample is picture
        own, theirs = one.asked["image_embedding"], one.made["image_embedding"]
        np.testing.assert_allclose(theirs, own + 1, atol=1e-5)
        with shipped.encoder as encoder, shipped.decoder as decoder:
            np.testing.assert_array_equal(encoder.infer(picture.feed)["image_embedding"], theirs)
            for features, masks, iou in (
                (own, one.masks, one.iou),
                (theirs, one.made["masks"], one.made["iou_predictions"]),
            ):
                made = decoder.infer(one.asked | {"image_embedding": features})
                np.testing.assert_array_equal(made["masks"], masks)
                np.testing.assert_array_equal(made["iou_predictions"], iou)


def test_an_encoder_that_merges_nothing_needs_no_tap(shipped: Shipped) -> None:
    shipped.merge(0)
    shipped.encoder, shipped.tap = shipped.of(0), None
    report = shipped.report()
    assert (report.error, report.plans) == (0, None)
    shipped.encoder = Changed(shipped.encoder, lambda made: {n: 1.01 * v for n, v in made.items()})
    assert missed(shipped.report()) == {"largest embedding error"}


def test_pictures_of_ones_own_and_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken one is left out with a word; where nothing else is there, it is the error."""
    (tmp_path / "broken.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"broken\.jpg is not a picture"):
        read_pictures(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "b.gif")
    Image.new("L", (8, 6)).save(tmp_path / "a.bmp")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    pictures = read_pictures(tmp_path)
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "a.bmp": (6, 8, 3),
        "b.gif": (6, 8, 3),
    }
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "skipped 1 (folders): folder.png"
    assert second == "skipped 1 (not named like pictures): notes.txt"
    assert third.startswith(f"note: {tmp_path}/broken.jpg is not a picture")
    assert third.endswith("; it is left out")
