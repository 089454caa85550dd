"""Runs of the decoder: how many prompts each takes, that none is lost between them, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.predict import decoding
from structsam_runtime.predict.decoding import MEMORY, PROMPTS, run_bytes, runs
from structsam_runtime.predict.prompts import Encoded
from structsam_runtime.runners.base import Array, Runner, TensorSpec

SIDE = 4
FLOAT = np.dtype(np.float32)


class Decoder(Runner):
    """Its masks and their quality are what it was asked with; it keeps the number of prompts of every run."""

    def __init__(self, masks: float = 0, quality: float = 0, most: int | None = None) -> None:
        super().__init__("decoder.onnx")
        self.most = most
        self.sizes: list[int] = []
        self.added = (masks, quality)  # to the last value of the last prompt

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        shapes: dict[str, tuple[int | str, ...]] = {
            "image_embedding": (1, 1, 2, 2),
            "point_coords": ("P", "N", 2),
            "mask_input": ("P", 1, SIDE, SIDE),
            "has_mask_input": ("P",),
        }
        inputs = {name: TensorSpec(FLOAT, shape) for name, shape in shapes.items()}
        return inputs | {"point_labels": TensorSpec(np.dtype(np.int32), ("P", "N"))}, {}

    def _close(self) -> None:
        pass

    def longest(self, name: str) -> int | None:
        return self.most

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        self.sizes.append(len(feeds["point_coords"]))
        first, has = feeds["point_coords"][:, 0, 0], feeds["has_mask_input"]
        quality = np.stack([first, has, feeds["point_labels"][:, 0], has], axis=1).astype(np.float32)
        masks = np.repeat(feeds["mask_input"], 4, axis=1) + first[:, None, None, None]
        masks.flat[-1] += self.added[0]
        quality.flat[-1] += self.added[1]
        return {"masks": masks, "iou_predictions": quality}


def small(model: Model) -> Model:
    return replace(model, low_res=SIDE, embedding=(1, 2, 2))


def ask(
    decoder: Decoder, model: Model, count: int, places: int = 2
) -> tuple[list[slice], NDArray[np.float32], NDArray[np.float32]]:
    """Slices, masks and quality of prompts that each have their number as place, every third with a mask."""
    coords = np.zeros((count, places, 2), np.float32) + np.arange(count, dtype=np.float32)[:, None, None]
    encoded = Encoded(coords, np.ones((count, places), np.int32), batched=True)
    previous = [None if index % 3 else np.full((1, SIDE, SIDE), index, np.float32) for index in range(count)]
    with decoder:
        made = list(runs(decoder, small(model), np.zeros((1, 1, 2, 2), np.float32), encoded, previous))
    parts, masks, quality = ([one[index] for one in made] for index in range(3))
    return parts, np.concatenate(masks), np.concatenate(quality)


@given(count=st.integers(1, 150), memory=st.integers(1, 10**5), most=st.none() | st.integers(1, 150))
def test_runs_fit_memory_and_engine_and_answer_as_one_run_would(
    sam: Model, count: int, memory: int, most: int | None
) -> None:
    each = run_bytes(small(sam), 2)
    decoder, whole = Decoder(most=most), Decoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MEMORY", max(memory, each))
        parts, masks, quality = ask(decoder, sam, count)
        assert max(decoder.sizes) <= PROMPTS
        assert max(decoder.sizes) * each <= max(memory, each)
        assert max(decoder.sizes) <= (most or PROMPTS)
        patch.setattr(decoding, "MEMORY", 10**12)
        patch.setattr(decoding, "PROMPTS", 10**6)
        _, all_masks, all_quality = ask(whole, sam, count)
    assert (whole.sizes, sum(decoder.sizes)) == ([count], count)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
    np.testing.assert_array_equal(masks, all_masks)
    np.testing.assert_array_equal(quality, all_quality)


def test_for_sam_64_boxes_are_one_run(sam: Model) -> None:
    assert PROMPTS * run_bytes(sam, 2) <= MEMORY
    assert 2 * PROMPTS * run_bytes(replace(sam, low_res=512, embedding=(256, 128, 128)), 2) > 3 * MEMORY


def test_a_prompt_of_too_many_points_is_refused(sam: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MEMORY", run_bytes(small(sam), 50))
    ask(Decoder(), sam, 2, places=50)
    decoder = Decoder()
    with pytest.raises(UserError, match=r"a prompt of 51 points takes .*, expected .* at most"):
        ask(decoder, sam, 2, places=51)
    assert decoder.sizes == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["masks", "quality"])
@pytest.mark.parametrize("count", [1, PROMPTS + 1])  # in the last run
def test_nan_and_infinity_are_refused(sam: Model, value: float, where: str, count: int) -> None:
    with pytest.raises(UserError, match=r"decoder\.onnx gives NaN or infinity; run `structsam check`"):
        ask(Decoder(**{where: value}), sam, count)


def test_large_numbers_are_none_of_these(sam: Model) -> None:
    largest = float(np.finfo(np.float32).max)
    _, masks, quality = ask(Decoder(masks=largest, quality=largest), sam, 3)
    assert masks.max() == quality.max() == np.float32(largest)
