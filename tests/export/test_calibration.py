"""Ranges come from pictures, and those that calibrate do not verify."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from torch import Tensor

from structsam_export import calibration, pipeline
from structsam_export.calibration import (
    BUDGET,
    PICTURES,
    Calibration,
    Layer,
    Tap,
    bundled,
    calibrate,
    left_out,
    parted,
    smoothing,
)
from structsam_export.check import unseen
from structsam_export.choices import Linear, Precision
from structsam_export.comparing import Arrays, digest
from structsam_export.config import ExportConfig
from structsam_export.encoder import apply
from structsam_export.encoder.walk import embed
from structsam_export.graph.quantize import FLOAT8, Quantization, Rows, quantize
from structsam_export.merging import StructSAM
from structsam_export.verify import read_pictures
from structsam_runtime.errors import UserError
from structsam_runtime.progress import Progress

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]
Command = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture(scope="module")
def encoder(build_encoder: Build) -> Any:
    """10 x 10 tokens, one window block and one global one."""
    made = build_encoder(160, depth=2, global_attn_indexes=(1,))
    apply(made, [StructSAM(0.55)] * 2)
    return made


@pytest.fixture(scope="module")
def found(encoder: Any, photographs: Photographs) -> dict[str, Layer]:
    return calibrate(encoder, [{"image": image[None].numpy()} for image in photographs(160)[:2]])


@pytest.fixture(scope="module")
def in_floats(encoder: Any, photographs: Photographs) -> dict[str, Layer]:
    """Calibrated for floats of 8 bits."""
    feeds = [{"image": image[None].numpy()} for image in photographs(160)[:2]]
    return calibrate(encoder, feeds, codes=FLOAT8)


def test_floats_of_8_bits_have_ranges_that_cut_nothing_off(
    found: dict[str, Layer], in_floats: dict[str, Layer]
) -> None:
    """Of every layer that int8 divides by the same factors, so that both are given the same."""
    assert found.keys() == in_floats.keys()
    for name, layer in in_floats.items():
        how, other = layer.how, found[name].how
        assert (how.codes, how.low) == (FLOAT8, -how.high)
        assert 0 < layer.error < 1e-2, name
        if name.endswith(".qkv"):
            assert how.high >= other.high, "int8 cuts, and never reaches further than the largest input"
        if name.endswith(".fc2"):
            assert how.high >= -how.low > 0.17


@pytest.mark.parametrize("kind", ["found", "in_floats"])
def test_what_codes_compute_is_close_to_what_was_calibrated(
    kind: str, encoder: Any, photographs: Photographs, request: pytest.FixtureRequest
) -> None:
    """On a picture that did not calibrate; floats of 8 bits are coarser."""
    image = photographs(160)[2:]
    exact, plans = embed(encoder, image)
    how = {name: one.how for name, one in request.getfixturevalue(kind).items()}
    made = embed(quantize(encoder, how), image, None, at(plans))[0]
    error = float((made - exact).square().sum() / exact.square().sum())
    assert 0 < error < (2e-3 if kind == "found" else 1e-2)


def test_every_layer_has_a_range_and_an_error(found: dict[str, Layer]) -> None:
    assert list(found) == [kind.of(block) for block in range(2) for kind in Linear]
    for name, layer in found.items():
        assert 0 < layer.error < 1e-3, name
        assert layer.how.high > 0
        if name.endswith(".fc2"):
            assert -0.1701 < layer.how.low < 0, "the least that GELU gives"
        else:
            assert layer.how.low == -layer.how.high
        assert layer.how.factors is None or name.endswith((".proj", ".fc1"))


def at(plans: Any) -> Any:
    """Plans to replay."""
    return lambda index, _: plans[index]


def test_the_ends_of_a_tail_are_cut_where_that_is_better() -> None:
    """One value of a thousand is a hundred times the others: its column hardly counts."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1000, 8, generator=generator)
    rows[0, 0] = 100
    weight = torch.randn(4, 8, generator=generator)
    weight[:, 0] = 1e-6
    how, _ = calibration._ranged(rows, torch.ones(1000), weight, 0.0, 100.0)
    assert how.high < 20


@given(st.integers(0, 99), st.integers(2, 30))
def test_factors_even_out_channels(seed: int, channels: int) -> None:
    """With equal weights, largest inputs to the fifth root of their ratios; without input they are safe."""
    generator = torch.Generator().manual_seed(seed)
    largest = 10 ** (3 * torch.rand(channels, generator=generator) - 2)
    factors = smoothing(largest, torch.ones(5, channels))
    assert float(factors.log().mean()) == pytest.approx(0, abs=1e-3)
    spread = (largest / factors).log() - (largest / factors).log().mean()
    assert torch.allclose(spread, 0.2 * (largest.log() - largest.log().mean()), atol=1e-3)
    largest[0] = 0
    factors = smoothing(largest, torch.zeros(5, channels))
    assert torch.isfinite(factors).all()
    assert (factors > 0).all()


def layers_of(codes: torch.dtype) -> st.SearchStrategy[dict[str, Layer]]:
    """Layers with errors up to the budget of their codes."""
    return st.dictionaries(
        st.builds(lambda block, kind: kind.of(block), st.integers(0, 5), st.sampled_from(Linear)),
        st.floats(0, BUDGET[codes]).map(lambda error: Layer(Quantization(-1.0, 1.0, codes=codes), error)),
        min_size=1,
    )


@given(st.sampled_from(list(BUDGET)).flatmap(layers_of))
def test_auto_leaves_out_the_worst_and_no_more_than_it_must(found: dict[str, Layer]) -> None:
    budget = BUDGET[next(iter(found.values())).how.codes]
    out = left_out(found, ["auto"])
    kept = [one.error for name, one in found.items() if name not in out]
    assert sum(kept) <= budget * (1 + 1e-9)
    if out:
        least = min(found[name].error for name in out)
        assert max(kept, default=0.0) <= least
        assert sum(kept) + least > budget * (1 - 1e-9)


def test_auto_that_leaves_no_layer_is_one_line(
    tiny: str, monkeypatch: pytest.MonkeyPatch, quiet: Progress
) -> None:
    worst = {"blocks.0.qkv": Layer(Quantization(-1.0, 1.0), 1.0)}
    monkeypatch.setattr(pipeline, "calibrate", lambda *_: worst)
    config = ExportConfig.of(
        tiny, random_weights=True, image_size=64, precision=Precision.INT8, int8_skip=("auto",)
    )
    black = {"black": np.zeros((64, 64, 3), np.uint8)}
    with pytest.raises(UserError, match="--int8-skip auto leaves no layer in 8 bits; leave fewer out, or"):
        pipeline.calibrated(config, pipeline.load(config), black, quiet)


def test_names_have_stars(found: dict[str, Layer]) -> None:
    assert left_out(found, ["blocks.0.*", "*.fc2"]) == (
        *("blocks.0.qkv", "blocks.0.proj", "blocks.0.fc1", "blocks.0.fc2"),
        "blocks.1.fc2",
    )
    assert left_out(found, []) == ()


def pictures(*shades: int) -> Arrays:
    return {f"{shade}.png": np.full((2, 3, 3), shade, np.uint8) for shade in shades}


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30), min_size=1))
def test_no_picture_calibrates_and_verifies(first: set[int], second: set[int]) -> None:
    one, other = pictures(*sorted(first or second)), pictures(*sorted(second))
    if len(second) == 1 and set(one) <= set(other):
        with pytest.raises(UserError, match="there is only one; give another folder with --calibrate"):
            parted(one.items(), other)
        return
    own, left = parted(one.items(), other)
    assert 1 <= len(own) <= PICTURES
    assert left
    assert not set(own) & set(left)
    assert set(own) <= set(one)
    if not set(one) & set(other):
        assert left == other


def test_no_more_pictures_are_read_than_calibrate() -> None:
    read = []

    def each() -> Iterator[tuple[str, Any]]:
        for name, picture in pictures(*range(1, 40)).items():
            read.append(name)
            yield name, picture

    own, left = parted(each(), pictures(0, 2))
    assert list(own) == [f"{shade}.png" for shade in (1, *range(3, 10))]
    assert (len(read), list(left)) == (9, ["0.png", "2.png"])


def test_where_few_pictures_are_new_some_of_those_that_verify_calibrate() -> None:
    own, left = parted(pictures(*range(10)).items(), pictures(*range(1, 10)))
    assert list(own) == ["0.png", "2.png", "4.png", "6.png", "8.png"]
    assert list(left) == ["1.png", "3.png", "5.png", "7.png", "9.png"]


def test_the_same_pixels_under_another_name_are_the_same_picture() -> None:
    one, other = pictures(1, 2), {"copy.png": pictures(1)["1.png"], **pictures(3)}
    own, left = parted(one.items(), other)
    assert (list(own), list(left)) == (["2.png"], ["copy.png", "3.png"])


def test_pictures_that_calibrated_do_not_check(capsys: pytest.CaptureFixture[str]) -> None:
    own = pictures(1, 2)
    said = {"quantization": {"pictures": {"any.png": digest(own["1.png"])}}}
    assert list(unseen(own, said)) == ["2.png"]
    assert capsys.readouterr().err == "note: 1.png calibrated this export; left out\n"
    assert unseen(own, {}) == own
    with pytest.raises(UserError, match="all pictures calibrated this export; give others with --images"):
        unseen(pictures(1), said)


@pytest.mark.parametrize("skipped", [("*",), ("*.qkv", "*.proj", "blocks.*.fc?")])
def test_some_layer_is_in_8_bits(skipped: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="leaves no layer in 8 bits; leave fewer out, or choose another"):
        ExportConfig("vit_b", precision=Precision.INT8, int8_skip=skipped)


def test_bundled_pictures_are_no_others(found: dict[str, Layer]) -> None:
    hashes = {digest(picture) for picture in read_pictures(None).values()}
    own = bundled()
    assert all(picture.ndim == 3 and picture.dtype == np.uint8 for picture in own.values())
    assert not hashes & {digest(picture) for picture in own.values()}
    table = Calibration({}, found, ("blocks.0.fc2", "blocks.1.fc2")).table().splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["qkv", "2"],
        ["proj", "2"],
        ["fc1", "2"],
        ["fc2", "0"],
    ]
    assert table[-1].endswith(", in floating point")


@pytest.mark.parametrize("rows", [5, 50])
def test_rows_that_are_kept_stand_for_all(rows: int) -> None:
    """Eight of them: the four largest for themselves, up to four others for the rest."""
    tap = Tap(Rows(torch.eye(3), None), 8, seed=0)
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    tap(x)
    assert torch.equal(tap.kept[0], x[x.abs().amax(1).argsort(descending=True)[:4]])
    assert [len(one) for one in tap.kept] == [4, min(rows - 4, 4)]
    assert float(torch.cat(tap.counts).sum()) == rows


def saved(folder: Path, *shades: int) -> Path:
    """A folder with a picture of each shade."""
    folder.mkdir()
    for name, picture in pictures(*shades).items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def shades(read: Arrays) -> set[int]:
    return {int(picture.flat[0]) for picture in read.values()}


def test_pictures_come_from_the_folders_that_were_given(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several, single = saved(tmp_path / "several", 1, 2, 3, 4), saved(tmp_path / "single", 5)
    config = ExportConfig.of(tiny, random_weights=True, precision=Precision.INT8, calibrate=single)
    calibrating, verifying = pipeline.read_all(config, several)
    assert (shades(calibrating), shades(verifying)) == ({5}, {1, 2, 3, 4})
    assert "8 bits are calibrated on one picture" in capsys.readouterr().err
    calibrating, verifying = pipeline.read_all(replace(config, calibrate=several), several)
    assert (len(calibrating), len(verifying)) == (2, 2)
    assert shades(calibrating) | shades(verifying) == {1, 2, 3, 4}
    calibrating, verifying = pipeline.read_all(replace(config, calibrate=None), None)
    assert (set(calibrating), set(verifying)) == (set(bundled()), set(read_pictures(None)))


@pytest.fixture
def exported_in_8_bits(exported: Callable[..., Path]) -> Path:
    """The shipped small model at 256 pixels, one layer in floating point."""
    return exported(
        arch="vit_nano",
        random_weights=False,
        image_size=256,
        precision=Precision.INT8,
        int8_skip=("blocks.0.fc2",),
    )


@pytest.mark.export
@pytest.mark.xdist_group("8 bits")  # one export for all
def test_an_export_says_how_it_was_calibrated_and_checks(
    exported_in_8_bits: Path, run_command: Command
) -> None:
    said = json.loads((exported_in_8_bits / "manifest.json").read_text())
    told = said["quantization"]
    assert told["float"] == ["blocks.0.fc2"]
    assert set(told["pictures"]) == set(bundled())
    assert not set(told["pictures"]) & set(said["verification"]["images"])
    assert len(told["layers"]) == 24
    model = onnx.load(exported_in_8_bits / "encoder.onnx")
    stored = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8 and one.dims]
    assert len(stored) == 23
    code, out, err = run_command("check", f"{exported_in_8_bits} --runner cpu")
    assert code == 0, out + err


@pytest.mark.export
@pytest.mark.xdist_group("8 bits")
@pytest.mark.filterwarnings("default::structsam_runtime.errors.Caution")
@pytest.mark.parametrize("kind", ["mlp.lin1.weight_scale", "mlp.lin2.weight", "mlp.lin2.shift"])
def test_a_check_finds_a_wrong_layer(
    exported_in_8_bits: Path, kind: str, tmp_path: Path, run_command: Command
) -> None:
    """As an engine computes that mistakes a scale, an order or a shift of one layer."""
    folder = tmp_path / "out"
    folder.mkdir()
    for path in exported_in_8_bits.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / "encoder.onnx")
    (constant,) = (one for one in model.graph.initializer if one.name == f"encoder.blocks.3.{kind}")
    values = numpy_helper.to_array(constant)
    wrong = values[::-1].copy() if values.dtype == np.int8 else values * values.dtype.type(2)
    constant.CopyFrom(numpy_helper.from_array(wrong, constant.name))
    onnx.save(model, folder / "encoder.onnx")
    code, out, err = run_command("check", f"{folder} --runner cpu --unverified")
    assert code == 3, out + err
