"""Windows as row numbers against SAM's own partition."""

import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.merging import Windows
from structsam_export.models.checkpoints import sam_modules

CPU = torch.device("cpu")
SIZES = {
    "batch": st.integers(1, 3),
    "height": st.integers(1, 30),
    "width": st.integers(1, 30),
    "side": st.integers(1, 14),
}


@pytest.fixture(scope="module")
def sam() -> Any:
    """SAM's own functions."""
    return sys.modules[sam_modules().ImageEncoderViT.__module__]


@given(**SIZES)
def test_cutting_is_sams_window_partition(sam: Any, batch: int, height: int, width: int, side: int) -> None:
    x = torch.randn(batch, height, width, 3)
    windows = Windows(height, width, side)
    expected, padded = sam.window_partition(x, side)  # [B', side, side, C]
    assert torch.equal(windows.cut(x), expected.flatten(1, 2))
    assert torch.equal(windows.cut(x[..., 0]), expected[..., 0].flatten(1, 2))
    assert (windows.down * side, windows.across * side) == padded
    assert windows.padded == (padded != (height, width))
    assert (batch * windows.per_image, windows.tokens) == expected.flatten(1, 2).shape[:2]


@given(**SIZES)
def test_token_of_row_is_sams_window_unpartition(
    sam: Any, batch: int, height: int, width: int, side: int
) -> None:
    windows = Windows(height, width, side)
    tokens = torch.randn(batch * windows.per_image, side, side, 3)
    padded = windows.down * side, windows.across * side
    expected = sam.window_unpartition(tokens, side, padded, (height, width))  # [B, H, W, C]
    rows = windows.token_of_row(batch, CPU)
    assert torch.equal(tokens.flatten(0, 2)[rows.long()], expected.flatten(0, 2))


@given(**SIZES)
def test_token_of_row_inverts_rows(batch: int, height: int, width: int, side: int) -> None:
    windows = Windows(height, width, side)
    there = windows.rows(batch, CPU).flatten()
    back = windows.token_of_row(batch, CPU)
    rows = torch.arange(batch * height * width) + int(windows.padded)
    assert torch.equal(there[back.long()].long(), rows)
    assert int((there == 0).sum()) == (there.numel() - back.numel() if windows.padded else 1)


def test_a_global_block_has_one_window_without_padding() -> None:
    windows = Windows(64, 64, 64)
    assert (windows.per_image, windows.tokens, windows.padded) == (1, 4096, False)


def test_sams_windows_at_1024_pixels() -> None:
    windows = Windows(64, 64, 14)
    assert (windows.per_image, windows.tokens, windows.padded) == (25, 196, True)
    padding = (windows.rows(1, CPU) == 0).sum(1)
    assert sorted(padding.tolist()) == [0] * 16 + [84] * 8 + [132]
