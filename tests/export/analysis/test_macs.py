"""Multiply-accumulates against the paper's, which are fvcore's, and against counting by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structsam_export.analysis.macs import SOBEL_MACS, count_macs, encoder_macs
from structsam_export.architectures import ARCHITECTURES
from structsam_export.checkpoints import build_sam
from structsam_export.encoder import apply, merged_blocks
from structsam_export.encoder.exported import planned_blocks
from structsam_export.encoder.patch import windows_of
from structsam_export.merging import Identity, StructSAM, Windows

Build = Callable[..., Any]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def sized(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Name and encoder of every architecture, without data."""
    with torch.device("meta"):
        return request.param, build_sam(request.param).image_encoder


def test_the_unmerged_encoder_costs_what_fvcore_says(sized: tuple[str, Any]) -> None:
    arch, encoder = sized
    apply(encoder, [Identity()] * len(encoder.blocks))
    published = {"vit_b": 486.41659e9, "vit_l": 1493.84705e9, "vit_h": 2982.219e9}
    assert encoder_macs(encoder).unmerged == pytest.approx(published[arch], rel=1e-4)


def test_merging_at_rate_055_costs_what_was_counted_for_algorithm_1(sized: tuple[str, Any]) -> None:
    """All blocks, unmerge after the projection, energy on the mean over heads. The documented counts price
    the energy on padded windows and round to five digits, so 0.02 % may differ."""
    arch, encoder = sized
    apply(encoder, [StructSAM(0.55, heads=ARCHITECTURES[arch].heads)] * len(encoder.blocks))
    macs = encoder_macs(encoder)
    documented = {"vit_b": 321.27e9, "vit_l": 1085.94e9, "vit_h": 2231.7e9}
    assert macs.merged + macs.energy == pytest.approx(documented[arch], rel=2e-4)


@pytest.mark.parametrize(
    ("rate", "gmac"), [(0.35, 373.1), (0.45, 345.2), (0.55, 321.27), (0.65, 298.0), (0.70, 288.0)]
)
def test_merging_vit_b_at_other_rates(rate: float, gmac: float) -> None:
    with torch.device("meta"):
        encoder = build_sam("vit_b").image_encoder
    apply(encoder, [StructSAM(rate, heads=12)] * 12)
    macs = encoder_macs(encoder)
    assert macs.merged + macs.energy == pytest.approx(gmac * 1e9, rel=2e-4)


def test_merging_nothing_costs_what_metas_encoder_costs(build_encoder: Build) -> None:
    """The decomposed relative position is priced alike, so the counts are equal to the last one."""
    encoder = build_encoder(320)
    apply(encoder, [Identity()] * 4)
    macs = encoder_macs(encoder)
    assert macs.merged == macs.unmerged
    assert macs.energy == 0


def test_counting_does_not_touch_the_encoder(
    build_encoder: Build, photographs: Callable[[int], Tensor]
) -> None:
    encoder, image = build_encoder(64), photographs(64)
    apply(encoder, [StructSAM(0.5)] * 4)
    before, blocks = encoder(image), list(encoder.blocks)
    encoder_macs(encoder)
    assert list(encoder.blocks) == blocks
    assert torch.equal(encoder(image), before)


def attention_by_hand(windows: Windows, slots: int, channels: int, heads: int) -> int:
    """Products of one attention with an added bias: qkv, q . k, the two tables, weights . v, projection."""
    total = 0
    for _ in range(windows.per_image):
        total += slots * channels * 3 * channels
        for _ in range(heads):
            head = channels // heads
            total += slots * slots * head  # q . k
            total += slots * windows.side * head * 2  # every query with every row and every column
            total += slots * slots * head  # weights . v
        total += slots * channels * channels
    return total


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.55, 0.75])
@pytest.mark.parametrize("image_size", [224, 320])
def test_widening_is_what_attention_does_beyond_counting_by_hand(
    build_encoder: Build, rate: float, image_size: int
) -> None:
    encoder = build_encoder(image_size)
    apply(encoder, [StructSAM(rate)] * 4)
    beyond = 0
    for block, windows in zip(merged_blocks(encoder), windows_of(encoder), strict=True):
        slots = block.method.slots(windows)
        x = torch.zeros(windows.per_image, slots, 64)
        position = torch.zeros(windows.per_image, slots, dtype=torch.int32)
        beyond += count_macs(block.attn, x, position) - attention_by_hand(windows, slots, 64, heads=2)
    assert encoder_macs(encoder).widening == beyond > 0


def test_without_relative_position_nothing_is_widened(build_encoder: Build) -> None:
    encoder = build_encoder(160, use_rel_pos=False)
    apply(encoder, [StructSAM(0.5)] * 4)
    assert encoder_macs(encoder).widening == 0


@pytest.mark.parametrize("heads", [1, 2])
def test_energy_is_two_depthwise_convolutions_over_the_map(build_encoder: Build, heads: int) -> None:
    encoder = build_encoder(320)
    apply(encoder, [StructSAM(0.5, heads=heads), Identity(), StructSAM(0.0), StructSAM(0.5, heads=heads)])
    channels = 64 // heads
    sobel = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels, bias=False)
    once = count_macs(sobel, torch.zeros(1, channels, 20, 20))
    assert once == SOBEL_MACS * channels * 400
    assert encoder_macs(encoder).energy == len(planned_blocks(encoder)) * once == 2 * once
