"""The answers of PyTorch as a file: what comes back, and files that are none."""

import contextlib
import io
import json
import tracemalloc
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime import Manifest, UserError, reference
from structsam_runtime.manifest import FileRecord, Model
from structsam_runtime.predict.image import Frame, prepare, resized
from structsam_runtime.predict.prompts import Encoded, encode
from structsam_runtime.reference import FILE, Answer, Reference, Rounded, within
from structsam_runtime.thresholds import THRESHOLDS

SMALL = Model(
    arch="small",
    image_size=32,
    embedding=(3, 2, 2),
    low_res=8,
    mask_threshold=0.0,
    pixel_mean=(120.0, 110.0, 100.0),
    pixel_std=(60.0, 57.0, 55.0),
    precision="fp32",
)
PROMPTED = replace(SMALL, prior=True)


def answer(seed: int, model: Model = SMALL, size: tuple[int, int] = (20, 30), name: str = "a cat") -> Answer:
    """What some model said of a picture of noise."""
    noise = np.random.default_rng(seed)
    frame = Frame.of(*size, model.image_size, model.fit)
    picture = noise.integers(0, 256, (*size, 3), np.uint8)
    _, height, width = model.embedding
    logits = noise.normal(size=(2, 4, model.low_res, model.low_res)).astype(np.float32)
    return Answer(
        name=name,
        frame=frame,
        pixels=resized(picture, frame, model.resampling),
        prior=noise.random((1, height, width), np.float32) if model.prior else None,
        prompts=encode(frame, box=[[1, 1, 9, 9], [3, 2, 15, 11]]),
        embedding=Rounded.of(noise.normal(size=(1, *model.embedding)).astype(np.float32)),
        masks=within(logits, frame),
        iou=noise.random((2, 4), np.float32),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test writes its file."""
    return tmp_path_factory.mktemp("reference")


def manifest(folder: Path, model: Model = SMALL) -> Manifest:
    """Of an export whose reference is the file as it is now; hashes are the manifest's own business."""
    files = {FILE: FileRecord((folder / FILE).stat().st_size, None)}
    return Manifest("small", "some", model, files, None, None, id="0123")


def save(folder: Path, *answers: Answer) -> Reference:
    made = Reference("0123", THRESHOLDS["fp32"], "PyTorch 2.9.0 on x86_64", answers)
    made.save(folder / FILE)
    return made


@pytest.fixture(autouse=True)
def unhashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have their size checked, and no hash: what is tested is what reads them."""
    monkeypatch.setattr("structsam_runtime.manifest.sha256", lambda path: None)


def parts(one: Answer) -> dict[str, Any]:
    """All that an answer holds, as arrays and numbers."""
    flat = {**vars(one), "prompts": None, "embedding": None, "frame": astuple(one.frame)}
    prompts, embedding = vars(one.prompts), vars(one.embedding)
    return {name: value for name, value in (flat | prompts | embedding).items() if value is not None}


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32), st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=3
    ),
    st.sampled_from(["pad", "stretch"]),
    st.booleans(),
    st.text(max_size=20),
)
def test_it_is_read_as_it_was_written(
    folder: Path, pictures: list[tuple[int, int, int]], fit: Any, prior: bool, name: str
) -> None:
    model = replace(SMALL, fit=fit, prior=prior)
    made = save(folder, *(answer(seed, model, (h + 11, w + 15), name) for seed, h, w in pictures))
    read = Reference.load(folder, manifest(folder, model))
    assert (read.export, read.limits, read.made_by) == (made.export, made.limits, made.made_by)
    for one, other in zip(made.answers, read.answers, strict=True):
        given, came = parts(one), parts(other)
        assert given.keys() == came.keys()
        for key, value in given.items():
            np.testing.assert_array_equal(came[key], value, err_msg=key)
            assert getattr(came[key], "dtype", None) == getattr(value, "dtype", None)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["pad", "stretch"]),
    st.sampled_from(["deviation", "min-max"]),
    st.integers(0, 2**32),
)
def test_the_encoder_gets_what_prediction_gives_it_to_the_bit(
    folder: Path, height: int, width: int, fit: Any, scaling: Any, seed: int
) -> None:
    """The picture is resized before it is stored, so that a device's own resizing plays no part."""
    model = replace(SMALL, fit=fit, scaling=scaling)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with contextlib.suppress(UserError):  # too thin
        expected, frame = prepare(picture, model)
        pixels = resized(picture, frame, model.resampling)
        shape = (2, 4, *within(np.zeros((8, 8)), frame).shape)
        stored = replace(answer(0, model), frame=frame, pixels=pixels, masks=np.ones(shape, np.bool_))
        save(folder, stored)
        (read,) = Reference.load(folder, manifest(folder, model)).answers
        feed = read.feed(model)
        assert feed.keys() == {"image"}
        np.testing.assert_array_equal(feed["image"], expected)
        assert feed["image"].dtype == np.float32


def test_a_prompt_aware_encoder_gets_its_prior(folder: Path) -> None:
    made = save(folder, answer(1, PROMPTED))
    (read,) = Reference.load(folder, manifest(folder, PROMPTED)).answers
    feed = read.feed(PROMPTED)
    assert feed.keys() == {"image", "prior"}
    np.testing.assert_array_equal(feed["prior"], made.answers[0].prior)


@given(
    arrays.arrays(
        np.float32,
        (1, 3, 2, 4),
        elements=st.floats(-(2.0**60), 2.0**60, width=32) | st.just(0.0),
        fill=st.nothing(),
    )
)
def test_an_embedding_is_rounded_by_no_more_than_it_says(features: NDArray[np.float32]) -> None:
    rounded = Rounded.of(features)
    off = np.abs(rounded.features.astype(np.float64) - features).max(axis=(0, 2, 3))
    slack = 2.0**-22 * np.abs(features).max(axis=(0, 2, 3))  # the product with the scale rounds too
    assert (off <= rounded.rounding + slack).all()
    assert (rounded.rounding <= np.abs(features).max(axis=(0, 2, 3)) / 65000 + 2.0**-126).all()
    assert (rounded.scale > 0).all()
    assert rounded.features.dtype == rounded.rounding.dtype == np.float32


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_masks_are_those_of_the_picture(height: int, width: int, seed: int) -> None:
    """A row belongs to the picture if any of it does; beyond is padding."""
    with contextlib.suppress(UserError):
        frame = Frame.of(height, width, 32)
        logits = np.random.default_rng(seed).normal(size=(2, 8, 8))
        masks = within(logits, frame)
        rows, columns = (sum(4 * k < length for k in range(8)) for length in astuple(frame)[2:4])
        assert masks.shape == (2, rows, columns)
        for index, inside in np.ndenumerate(masks):
            assert inside == (logits[index] > 0)


def write(folder: Path, changes: dict[str, Any], about: dict[str, Any]) -> None:
    """A sound file but for some arrays, and some of what it says; None leaves an array out."""
    save(folder, answer(0))
    with np.load(folder / FILE) as kept:
        content = dict(kept)
    content["about"] = np.array(json.dumps(json.loads(str(content["about"])) | about))
    content |= changes
    np.savez(folder / FILE, **{name: value for name, value in content.items() if value is not None})


def png(mode: str, *size: int) -> NDArray[np.uint8]:
    """A picture as it is stored."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "about", "message"),
    [
        ({"about": None}, {}, "no item named 'about.npy'"),
        ({"about": np.array("{")}, {}, "Expecting property name"),
        ({"about": np.array("[" * 10**6)}, {}, "recursion"),
        ({}, {"format": 2}, "it has format 2, expected 1"),
        ({}, {"pictures": []}, "it has 0 pictures, expected 1 to 3"),
        ({}, {"pictures": [{"name": "a", "frame": [20, 30, 21, 32, 32]}] * 4}, "it has 4 pictures"),
        ({}, {"pictures": [{"name": "a", "frame": [20, 30, 22, 32, 32]}]}, r"its 0\.frame \[20, 30, 22"),
        ({}, {"pictures": [{"name": "a", "frame": [20, 30, 21, 32]}]}, "missing 1 required"),
        ({}, {"limits": {"error": "small"}}, "its limit 'error' is 'small', expected a number"),
        ({}, {"limits": {"error": float("nan")}}, "its limit 'error' is nan, expected a number"),
        ({}, {"limits": {"beauty": 1}}, "unexpected keyword argument 'beauty'"),
        ({"0.embedding": None}, {}, "no item named '0.embedding.npy'"),
        ({"0.embedding": np.zeros((1, 3, 2, 3), np.int16)}, {}, r"is int16 \[1, 3, 2, 3\], expected int16"),
        ({"0.embedding": np.zeros((1, 3, 2, 2), np.float16)}, {}, r"0\.embedding is float16 \[1, 3, 2, 2\]"),
        ({"0.embedding": np.array([None])}, {}, "Object arrays cannot be loaded"),
        ({"0.scale": np.zeros(3, np.float32)}, {}, r"its 0\.scale is not above 0"),
        ({"0.scale": np.full(3, np.inf, np.float32)}, {}, r"its 0\.scale holds NaN or infinity"),
        ({"0.masks": np.zeros(7, np.uint8)}, {}, r"its 0\.masks is uint8 \[7\], expected uint8 \[48\]"),
        ({"0.iou": np.full((2, 4), np.nan, np.float32)}, {}, r"its 0\.iou holds NaN"),
        ({"0.point_labels": np.full((2, 2), 7, np.int32)}, {}, r"its 0\.point_labels are none of prompts"),
        ({"0.point_labels": np.zeros((0, 2), np.int32)}, {}, r"its 0\.point_labels are none of prompts"),
        ({"0.point_coords": np.zeros((2, 3, 2), np.float32)}, {}, r"is float32 \[2, 3, 2\], expected"),
        ({"0.png": np.zeros(100, np.uint8)}, {}, "cannot identify image file"),
        ({"0.png": png("RGB", 32, 22)}, {}, r"its picture is RGB \(32, 22\), expected RGB \(32, 21\)"),
        ({"0.png": png("L", 32, 21)}, {}, r"its picture is L \(32, 21\)"),
        ({"0.png": png("RGB", 32, 21)[:-30]}, {}, "is not a reference"),
    ],
)
def test_refuses_in_one_line(
    folder: Path, changes: dict[str, Any], about: dict[str, Any], message: str
) -> None:
    write(folder, changes, about)
    with pytest.raises(UserError, match=message) as error:
        Reference.load(folder, manifest(folder))
    told = str(error.value)
    assert f"{folder / FILE} is not a reference that this version reads: " in told
    assert told.endswith("; export again")


def test_a_prompt_aware_encoder_is_not_checked_without_a_prior(folder: Path) -> None:
    save(folder, answer(0))
    with pytest.raises(UserError, match=r"no item named '0\.prior\.npy'"):
        Reference.load(folder, manifest(folder, PROMPTED))


def test_that_of_another_export_is_refused(folder: Path) -> None:
    save(folder, answer(0))
    with pytest.raises(UserError, match="is of another export than its manifest; copy them again together"):
        Reference.load(folder, replace(manifest(folder), id="4567"))


def test_an_export_from_before_has_none(folder: Path) -> None:
    save(folder, answer(0))
    with pytest.raises(UserError, match=r"has no reference\.npz.*--against pytorch, or export again$"):
        Reference.load(folder, replace(manifest(folder), files={}))


def test_one_that_was_cut_short_or_removed_is_not_the_one_that_was_written(folder: Path) -> None:
    save(folder, answer(0))
    known = manifest(folder)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1])
    with pytest.raises(UserError, match=r"reference\.npz has .* bytes, its manifest says .*; copy it again"):
        Reference.load(folder, known)
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=r"no reference\.npz in .*, though its manifest lists it"):
        Reference.load(folder, known)


def test_size_is_checked_before_memory_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BYTES", 2**16)
    write(folder, {"0.masks": np.zeros(2**22, np.uint8)}, {})
    known = manifest(folder)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"its 0\.masks have 4194432 bytes, expected 65536 at most"):
            Reference.load(folder, known)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21


@given(st.data())
def test_a_damaged_file_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    save(folder, answer(0, PROMPTED))
    content = bytearray((folder / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / FILE).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UserError):
        Reference.load(folder, manifest(folder, PROMPTED))


def test_prompts_of_any_number_of_places_come_back(folder: Path) -> None:
    frame = Frame.of(20, 30, 32)
    prompts = Encoded(
        np.arange(12, dtype=np.float32).reshape(2, 3, 2), np.array([[1, 0, -1], [2, 3, -2]], np.int32), True
    )
    save(folder, replace(answer(0), frame=frame, prompts=prompts))
    (read,) = Reference.load(folder, manifest(folder)).answers
    np.testing.assert_array_equal(read.prompts.point_coords, prompts.point_coords)
    np.testing.assert_array_equal(read.prompts.point_labels, prompts.point_labels)
