"""Plans and energies, read from inside a graph; beside the arithmetic that exports are made with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.merging import Windows
from structsam_export.merging.energy import gradient_energy
from structsam_runtime import UserError
from structsam_runtime.demo.taps import Tap, gradient, plan_of, taps
from structsam_runtime.manifest import content
from structsam_runtime.runners.protobuf import field, fields

TAP = Tap(2, 1, "slot", "norm")


def test_taps_are_where_the_manifest_and_the_graph_say(merging_folder: Path, export_folder: Path) -> None:
    found = taps(merging_folder / "encoder.onnx", content(merging_folder))
    assert found == [Tap(3, 16, "blocks.3.slot", "normed")]
    assert taps(export_folder / "encoder.onnx", content(export_folder)) == []


def test_a_damaged_list_of_plans_is_one_line(merging_folder: Path) -> None:
    for plans in ({"a": 1}, ["a"], [{"block": 1}], [{"block": 1, "windows": 1, "slot": 3}]):
        with pytest.raises(UserError, match=r"manifest\.json"):
            taps(merging_folder / "encoder.onnx", {"plans": plans})


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    side=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_windows_are_joined_as_the_encoder_joins_them(height: int, width: int, side: int, seed: int) -> None:
    windows = Windows(height, width, side)
    rng = np.random.default_rng(seed)
    slots = rng.integers(1, side * side + 1)
    slot = rng.integers(0, slots, (windows.per_image, side * side)).astype(np.int32)
    features = rng.normal(size=(height, width, 3)).astype(np.float32)
    made = {"slot": slot, "norm": features.reshape(1, -1, 3)}
    plan = plan_of(TAP, made, height, width)
    numbered = windows.joined(torch.from_numpy(slot) + 100 * torch.arange(len(slot))[:, None])[0].numpy()
    # The same tokens share a slot, whatever the slots are called; `alone` counts padding too.
    same = numbered.ravel()[:, None] == numbered.ravel()
    np.testing.assert_array_equal(plan.slot.ravel()[:, None] == plan.slot.ravel(), same)
    alone = np.array([[(row == one).sum() == 1 for one in row] for row in slot])
    np.testing.assert_array_equal(plan.alone, windows.joined(torch.from_numpy(alone))[0].numpy())
    assert (plan.windows, plan.tokens) == (windows.per_image, slot.size)


def test_windows_that_do_not_cover_the_map_are_one_line() -> None:
    """As those of a group of a prompt-aware encoder."""
    for shape in ((3, 4), (4, 5)):
        with pytest.raises(UserError, match=r"block 2 plans .* expected windows that cover 4 x 4 tokens"):
            plan_of(TAP, {"slot": np.zeros(shape, np.int32)}, 4, 4)


@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_energy_is_that_of_the_method(height: int, width: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(height, width, 4)).astype(np.float32)
    expected = gradient_energy(torch.from_numpy(features)[None])[0].sqrt().numpy()
    np.testing.assert_allclose(gradient(features), expected, rtol=1e-4, atol=1e-4)


@given(name=st.text(max_size=300), number=st.integers(1, 15))
def test_a_field_that_is_appended_is_read_back(name: str, number: int) -> None:
    before = field(1, b"before")
    found = fields(memoryview(before + field(number, name.encode())))
    assert bytes(found[number][-1]).decode() == name
    assert bytes(found[1][0]) == b"before" if number != 1 else len(found[1]) == 2
