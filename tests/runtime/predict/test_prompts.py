"""Prompts against the tokens that Meta's prompt encoder makes of them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.errors import UserError
from structsam_runtime.predict.image import Frame
from structsam_runtime.predict.prompts import Prompt, encode, encode_each

FRAME = Frame.of(480, 640, 1024)
POINT, BOX = [100, 80], [100, 80, 400, 360]


@pytest.mark.parametrize("points", [0, 1, 3])
@pytest.mark.parametrize("boxed", [False, True])
def test_tokens_are_those_of_metas_prompt_encoder(points: int, boxed: bool, meta: SimpleNamespace) -> None:
    if not points and not boxed:
        return
    random = np.random.default_rng(1)
    coords = random.uniform(0, 480, (2, points, 2)) if points else None
    labels = random.integers(0, 2, (2, points)) if points else None
    box = np.array([BOX, [5, 6, 630, 470]]) if boxed else None
    got = encode(FRAME, coords, labels, box)

    torch.manual_seed(0)
    encoder = meta.PromptEncoder(16, (64, 64), (1024, 1024), 4)
    transform = meta.ResizeLongestSide(1024)
    point_input = box_input = None
    if coords is not None:
        places = torch.as_tensor(transform.apply_coords(coords, (480, 640)), dtype=torch.float)
        point_input = (places, torch.as_tensor(labels, dtype=torch.int))
    if box is not None:
        box_input = torch.as_tensor(transform.apply_boxes(box, (480, 640)), dtype=torch.float)
    with torch.no_grad():
        expected, _ = encoder(points=point_input, boxes=box_input, masks=None)
        # What the decoder makes of a labelled place: position (none for padding) plus the label's vector.
        position = encoder.pe_layer.forward_with_coords(
            torch.from_numpy(got.point_coords + 0.5), (1024, 1024)
        )
        vectors = [encoder.not_a_point_embed, *encoder.point_embeddings]
        kind = torch.cat([vector.weight for vector in vectors])[torch.from_numpy(got.point_labels).long() + 1]
        tokens = torch.where(torch.from_numpy(got.point_labels)[:, :, None] == -1, 0.0, position) + kind
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0)


def test_a_point_gets_one_padding_place() -> None:
    got = encode(FRAME, [POINT], [1])
    np.testing.assert_array_equal(got.point_coords, np.array([[[160, 128], [0, 0]]], np.float32))
    np.testing.assert_array_equal(got.point_labels, [[1, -1]])
    assert not got.batched


def test_points_come_before_the_corners_of_the_box_and_without_padding() -> None:
    got = encode(FRAME, [POINT, [10, 20]], [1, 0], BOX)
    np.testing.assert_array_equal(got.point_labels, [[1, 0, 2, 3]])
    np.testing.assert_array_equal(got.point_coords[0, 2:], np.array([[160, 128], [640, 576]], np.float32))


def test_one_prompt_in_a_batch_is_a_batch() -> None:
    assert encode(FRAME, box=[BOX]).batched
    assert encode(FRAME, [[POINT]], [[1]]).batched
    assert not encode(FRAME, box=BOX).batched


@given(st.integers(1, 5), st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_shapes_and_dtypes(count: int, points: int, boxed: bool, seed: int) -> None:
    boxed = boxed or points == 0
    random = np.random.default_rng(seed)
    coords = random.uniform(0, (640, 480), (count, points, 2)) if points else None
    labels = random.integers(0, 2, (count, points)) if points else None
    low = random.uniform(0, 240, (count, 2))
    box = np.concatenate([low, low + random.uniform(1, 240, (count, 2))], axis=1) if boxed else None
    got = encode(FRAME, coords, labels, box)
    tokens = points + (2 if boxed else 1)
    assert got.point_coords.shape == (count, tokens, 2)
    assert got.point_labels.shape == (count, tokens)
    assert got.point_coords.dtype == np.float32
    assert got.point_labels.dtype == np.int32
    assert (got.point_labels == -1).sum() == (0 if boxed else count)
    assert (got.point_coords >= 0).all()
    assert (got.point_coords <= 1024).all()


def test_the_given_arrays_stay_as_they_are() -> None:
    box = np.array(BOX, np.float64)
    encode(FRAME, box=box)
    np.testing.assert_array_equal(box, BOX)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "no prompt: give points with labels, or a box"),
        ({"point_labels": [1]}, "point_labels came without point_coords"),
        ({"point_coords": [POINT]}, "point_coords came without point_labels"),
        ({"point_coords": POINT, "point_labels": [1]}, r"point_coords has shape \[2\], expected \[N, 2\]"),
        ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"shape \[1, 3\], expected \[N, 2\]"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": []}, r"shape \[0, 2\], expected \[N, 2\]"),
        (
            {"point_coords": [POINT], "point_labels": [1, 0]},
            r"shape \[2\], expected \[1\]: one for each point",
        ),
        ({"point_coords": [[POINT]], "point_labels": [1]}, r"shape \[1\], expected \[1, 1\]"),
        ({"point_coords": [POINT], "point_labels": [2]}, "holds 2, expected 1"),
        ({"point_coords": [POINT], "point_labels": [0.5]}, "holds 0.5, expected 1"),
        ({"point_coords": [POINT], "point_labels": [-1]}, "holds -1, expected 1"),
        ({"point_coords": [[np.nan, 1]], "point_labels": [1]}, "point_coords holds NaN or infinity"),
        ({"point_coords": [["a", 1]], "point_labels": [1]}, "point_coords is not an array of numbers"),
        ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, "point_coords is not an array of numbers"),
        ({"point_coords": [[641, 5]], "point_labels": [1]}, r"point \(641, 5\) lies outside .* 640 x 480"),
        ({"point_coords": [POINT, [-1, 5]], "point_labels": [1, 1]}, r"point \(-1, 5\) lies outside"),
        ({"box": [1, 2, 3]}, r"box has shape \[3\], expected \[4\] or \[P, 4\]"),
        ({"box": np.zeros((0, 3))}, r"box has shape \[0, 3\]"),
        ({"point_coords": np.zeros((2, 0, 2)), "point_labels": np.zeros((2, 0))}, r"shape \[2, 0, 2\]"),
        ({"box": [0, 0, 1e308, 5]}, r"box holds 1e\+308, expected numbers from -1e\+09 to 1e\+09"),
        ({"box": [0, 0, 10**400, 5]}, "box is not an array of numbers: int too large"),
        ({"box": ["1", "2", "3", "4"]}, "box is not an array of numbers: it holds <U1"),
        ({"box": np.array([1, 2, 3, 4j])}, "box is not an array of numbers: it holds complex128"),
        ({"box": np.zeros(4, "datetime64[s]")}, "box is not an array of numbers: it holds datetime64"),
        ({"box": torch.zeros(4, device="meta")}, "box is not an array of numbers: "),
        ({"box": torch.ones(4).to_sparse()}, "box is not an array of numbers: "),
        ({"box": np.zeros((0, 4)), "point_coords": [POINT], "point_labels": [1]}, "points of 1 prompts came"),
        ({"box": [[BOX]]}, r"box has shape \[1, 1, 4\]"),
        ({"box": [0, 0, np.inf, 5]}, "box holds NaN or infinity"),
        ({"box": [10, 10, 9, 20]}, r"box \(10, 10, 9, 20\) is turned around"),
        ({"box": [BOX, [10, 20, 30, 15]]}, r"box \(10, 20, 30, 15\) is turned around"),
        ({"box": [640, 0, 700, 50]}, "lies outside the picture of 640 x 480 pixels"),
        ({"box": [-20, 0, -1, 50]}, "lies outside the picture"),
        (
            {"point_coords": [[POINT]] * 2, "point_labels": [[1]] * 2, "box": [BOX] * 3},
            "points of 2 prompts came with boxes of 3",
        ),
    ],
)
def test_refuses_in_one_line(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        encode(FRAME, **prompts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [(0, 0), (639, 479), (5, 7)])
def test_a_box_may_be_one_pixel(place: tuple[int, int]) -> None:
    got = encode(FRAME, box=[*place, *place])
    np.testing.assert_array_equal(got.point_coords[0, 0], got.point_coords[0, 1])
    assert got.point_labels.tolist() == [[2, 3]]


def test_a_box_may_reach_beyond_the_picture() -> None:
    got = encode(FRAME, box=[-10, -10, 700, 500])
    np.testing.assert_array_equal(got.point_coords[0], np.array([[-16, -16], [1120, 800]], np.float32))


def test_each_of_many_prompts_is_what_it_is_alone() -> None:
    asked = [
        Prompt(point_coords=[POINT], point_labels=[1]),
        Prompt(box=BOX),
        Prompt(point_coords=[POINT, [5, 6], [7, 8]], point_labels=[1, 0, 1], box=BOX),
        Prompt(mask_input=np.zeros((1, 256, 256))),
    ]
    many = encode_each(FRAME, asked)
    assert many.batched
    assert many.point_coords.shape == (4, 5, 2)
    assert many.point_coords.dtype == np.float32
    np.testing.assert_array_equal((many.point_labels != -2).sum(axis=1), [2, 2, 5, 0])
    for index, prompt in enumerate(asked[:3]):
        alone = encode(FRAME, prompt.point_coords, prompt.point_labels, prompt.box)
        there = alone.point_labels.shape[1]
        np.testing.assert_array_equal(many.point_coords[index, :there], alone.point_coords[0])
        np.testing.assert_array_equal(many.point_labels[index, :there], alone.point_labels[0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([Prompt(box=BOX), Prompt()], "prompt 2: no prompt: give points with labels, or a box"),
        ([Prompt(box=BOX), Prompt(box=[9, 9, 1, 1])], r"prompt 2: the box \(9, 9, 1, 1\) is turned around"),
        ([Prompt(point_coords=[[700, 1]], point_labels=[1])], r"prompt 1: the point \(700, 1\) lies outside"),
        ([Prompt(point_coords=[POINT], point_labels=[2])], "prompt 1: point_labels holds 2"),
        ([Prompt(box=[1, 2, float("nan"), 4])], "prompt 1: box holds NaN or infinity"),
        ([Prompt(box=[BOX, BOX])], "prompt 1 is a batch of 2; give each prompt by itself"),
    ],
)
def test_a_wrong_one_of_many_is_told_by_its_number(asked: list[Prompt], message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_each(FRAME, asked)
