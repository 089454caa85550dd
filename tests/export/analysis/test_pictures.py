"""Pictures of merging against plain loops and against pixels worked out by hand."""

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_export.analysis.pictures import (
    BlockView,
    block_view,
    draw_energy,
    draw_masks,
    draw_merging,
    finish,
    watch,
)
from structsam_export.encoder import apply
from structsam_export.encoder.attention import layer_norm
from structsam_export.merging import MergePlan, PiToMe, StructSAM, ToMe, Windows, gradient_energy
from structsam_export.merging.registry import METHODS

SIZE = 320  # 20 x 20 tokens: four windows with padding, or one global window
RATE = 0.55


@pytest.fixture
def image(photographs: Any) -> torch.Tensor:
    return photographs(SIZE)[:1]


@pytest.fixture
def patched(build_encoder: Any) -> Any:
    """`patched(method)`: an encoder of four blocks, window and global in turn, all merging by one method."""

    def make(method: Any) -> Any:
        encoder = build_encoder(SIZE)
        apply(encoder, [method] * 4)
        return encoder

    return make


def slow_maps(plan: MergePlan, windows: Windows) -> tuple[Any, Any, Any]:
    """Slot, merged and destination of a view, token by token."""
    shape = windows.height, windows.width
    slot, merged, destination = np.zeros(shape, int), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, column in np.ndindex(shape):
        window = row // windows.side * windows.across + column // windows.side
        token = row % windows.side * windows.side + column % windows.side
        own = int(plan.slot[window, token])
        slot[row, column] = window * plan.size.shape[1] + own
        merged[row, column] = int(plan.size[window, own]) > 1
        destination[row, column] = merged[row, column] and int(plan.position[window, own]) == token
    return slot, merged, destination


@pytest.mark.parametrize("kind", [own.load() for own in METHODS.values()], ids=METHODS)
def test_views_are_the_plans_of_the_methods_own_stream(kind: Any, patched: Any, image: torch.Tensor) -> None:
    encoder = patched(kind(RATE))
    views, _ = watch(encoder, image, [0, 3])
    assert list(views) == [0, 3]
    x = encoder.patch_embed(image) + encoder.pos_embed
    for index, block in enumerate(encoder.blocks):
        x, (plan,) = block.forward_with_plans(x)
        if index in views:
            view = views[index]
            slot, merged, destination = slow_maps(plan, block.windows)
            np.testing.assert_array_equal(view.slot, slot)
            np.testing.assert_array_equal(view.merged, merged)
            np.testing.assert_array_equal(view.destination, destination)
            assert (view.windows, view.slots) == (block.windows, block.method.slots(block.windows))
            assert 0.2 < view.merged.mean() < 1
            assert view.destination.any()


@pytest.mark.parametrize("last", [0, 2, 3])
def test_watching_and_finishing_is_the_encoder(last: int, patched: Any, image: torch.Tensor) -> None:
    """The same blocks in the same order: no difference at all."""
    encoder = patched(StructSAM(RATE))
    _, stage = watch(encoder, image, [last])
    assert len(stage.plans) == last + 1
    assert torch.equal(finish(encoder, stage), encoder(image))


def test_a_destination_in_the_padding_is_not_shown() -> None:
    """A map of 2 x 2 in one window of 3 x 3: tokens 0 and 8 share a slot, whose place is in the padding."""
    slot = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0]], dtype=torch.int32)
    position = torch.tensor([[8, 1, 2, 3, 4, 5, 6, 7]], dtype=torch.int32)
    size = torch.tensor([[2, 1, 1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    plan = MergePlan(slot, position, size, rule=None)  # type: ignore[arg-type]
    view = block_view(plan, Windows(2, 2, 3), None, 16)
    np.testing.assert_array_equal(view.merged, [[True, False], [False, False]])
    assert not view.destination.any()


def test_structsams_energy_is_the_gradient(patched: Any, image: torch.Tensor) -> None:
    encoder = patched(StructSAM(RATE))
    views, _ = watch(encoder, image, [0])
    features = layer_norm(encoder.blocks[0].norm1, encoder.patch_embed(image) + encoder.pos_embed)
    np.testing.assert_array_equal(views[0].energy, gradient_energy(features)[0].sqrt())


@pytest.mark.parametrize("side", [14, 20])
def test_pitomes_energy_is_the_mean_elu_similarity(side: int) -> None:
    """Against loops in float64; 1e-5 for fp32 sums of 400 terms of order one, and scores rounded to 1e-6."""
    windows, margin = Windows(20, 20, side), 0.3
    x = torch.randn(1, 20, 20, 8, generator=torch.Generator().manual_seed(0))
    energy = PiToMe(RATE, margin).scores(x, windows)[0]
    assert energy is not None
    padded = np.zeros((windows.down * side, windows.across * side, 8))
    padded[:20, :20] = x[0]
    for row, column in ((0, 0), (3, 17), (13, 13), (14, 14), (19, 2)):
        top, left = row // side * side, column // side * side
        total = 0.0
        for other in padded[top : top + side, left : left + side].reshape(-1, 8):
            norms = np.linalg.norm(padded[row, column]) * np.linalg.norm(other)
            gap = (padded[row, column] @ other / norms if norms else 0.0) - margin
            total += gap if gap > 0 else np.exp(gap) - 1
        assert float(energy[row, column]) == pytest.approx(total / side**2, abs=1e-5)


def test_other_methods_have_no_energy() -> None:
    assert ToMe(RATE).scores(torch.ones(1, 4, 4, 8), Windows(4, 4, 4)) is None


def view_of(
    slot: NDArray[np.int64], destination: NDArray[np.bool_] | None = None, patch: int = 16
) -> BlockView:
    """A view with nothing but slots and, unless they are given, the first token of each as destination."""
    _, first, part, number = np.unique(slot, return_index=True, return_inverse=True, return_counts=True)
    merged = (number > 1)[part].reshape(slot.shape)
    if destination is None:
        destination = np.isin(np.arange(slot.size), first).reshape(slot.shape) & merged
    windows = Windows(*slot.shape, max(slot.shape))
    return BlockView(slot, merged, destination, None, windows, len(number), patch)


@given(st.data(), st.integers(33, 48), st.integers(17, 32))
def test_merged_tokens_show_their_mean_and_kept_ones_themselves(data: Any, height: int, width: int) -> None:
    """A real photograph on a map of 4 x 3 tokens, of which the last row and column may be cut or padding."""
    slots = data.draw(st.lists(st.integers(0, 7), min_size=12, max_size=12))
    photo = skimage.data.astronaut()[100 : 100 + height, 180 : 180 + width]
    view = view_of(np.array(slots).reshape(4, 3))
    drawn = draw_merging(photo, view)
    assert (drawn.shape, drawn.dtype) == (photo.shape, np.uint8)
    for row, column in np.ndindex(height, width):
        place = row // 16, column // 16
        alike = view.slot == view.slot[place]
        if not view.merged[place]:
            expected = photo[row, column]
        elif view.destination[place] and 5 <= row % 16 < 11 and 5 <= column % 16 < 11:
            expected = np.array([255, 255, 255])
        else:
            pixels = [
                photo[16 * r : 16 * r + 16, 16 * c : 16 * c + 16].reshape(-1, 3)
                for r, c in zip(*np.nonzero(alike), strict=True)
            ]
            expected = np.rint(0.4 * np.concatenate(pixels).mean(0) + (20, 30, 60))
        # One level: sums in another order may round the other way.
        assert np.abs(drawn[row, column].astype(int) - expected).max() <= 1


def test_a_token_of_8_pixels_has_its_dot_in_the_middle() -> None:
    view = view_of(np.array([[0, 0], [1, 2]]), patch=8)
    photo = np.full((16, 12, 3), 100, np.uint8)  # the second column is cut
    white = (draw_merging(photo, view) == 255).all(-1)
    expected = np.zeros((16, 12), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(white, expected)


def test_every_merged_pixel_is_seen_on_black_and_on_white() -> None:
    view = view_of(np.zeros((2, 2), int), np.zeros((2, 2), bool))
    for level in (0, 255):
        photo = np.full((32, 32, 3), level, np.uint8)
        assert np.abs(draw_merging(photo, view).astype(int) - level).min() >= 20


def test_a_difference_by_hand() -> None:
    """Pale grey 177.5 over 100; half of blue over it; nine tenths of green or orange over it."""
    photo = np.full((2, 2, 3), 100, np.uint8)
    before = np.array([[False, True], [False, True]])
    after = np.array([[False, True], [True, False]])
    expected = [[[178, 178, 178], [132, 179, 205]], [[18, 160, 121], [209, 102, 18]]]
    np.testing.assert_array_equal(draw_masks(photo, before, after), expected)
    one = draw_masks(photo, before, before)
    np.testing.assert_array_equal(one[0], expected[0])
    np.testing.assert_array_equal(one[1], expected[0])


def test_energies_become_brighter_colours_token_by_token() -> None:
    photo = np.zeros((20, 32, 3), np.uint8)  # the second row of tokens is cut, the third is padding
    drawn = draw_energy(photo, np.array([[1, 2], [3, 4], [1e9, -1e9]], np.float32), 16)
    tokens = [drawn[:16, :16], drawn[:16, 16:], drawn[16:, :16], drawn[16:, 16:]]
    assert all(len(np.unique(token.reshape(-1, 3), axis=0)) == 1 for token in tokens)
    brightness = [int(token[0, 0].sum()) for token in tokens]
    assert brightness == sorted(set(brightness))
    assert brightness[0] < 20
    assert brightness[3] > 500


def test_an_energy_that_is_the_same_everywhere_is_drawn() -> None:
    drawn = draw_energy(np.zeros((32, 32, 3), np.uint8), np.ones((2, 2), np.float32), 16)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
