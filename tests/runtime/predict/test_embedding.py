"""Embeddings as they are kept, and files that are none."""

import contextlib
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime import Embedding, UserError
from structsam_runtime.predict import embedding
from structsam_runtime.predict.image import Frame

FRAME = Frame.of(48, 64, 32)
FEATURES = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test writes its file."""
    return tmp_path_factory.mktemp("embedding") / "some.npz"


def write(path: Path, **changes: Any) -> None:
    parts = {"features": FEATURES, "frame": np.array([48, 64, 24, 32, 32]), "weights": np.array("some")}
    np.savez_compressed(path, **(parts | changes))


def test_it_is_read_as_it_was_written(path: Path) -> None:
    Embedding(FEATURES, FRAME, "some").save(path)
    kept = Embedding.load(path)
    np.testing.assert_array_equal(kept.features, FEATURES)
    assert (kept.frame, kept.weights, kept.features.dtype) == (FRAME, "some", np.float32)


def test_nobody_changes_it() -> None:
    own: NDArray[np.float32] = FEATURES.copy()
    kept = Embedding(own, FRAME, "some")
    own[:] = 0
    np.testing.assert_array_equal(kept.features, FEATURES)
    with pytest.raises(ValueError, match="read-only"):
        kept.features[0] = 0


@given(st.tuples(*[st.integers(-(2**40), 2**40) | st.integers(-3, 40)] * 5))
def test_a_frame_is_one_of_a_picture_or_refused(sizes: tuple[int, int, int, int, int]) -> None:
    with contextlib.suppress(UserError):
        frame = Embedding(FEATURES, Frame(*sizes), "some").frame
        fits = [Frame.of(frame.height, frame.width, frame.image_size, fit) for fit in ("pad", "stretch")]
        assert frame in fits


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.sampled_from(["pad", "stretch"]))
def test_frames_of_pictures_are_taken(height: int, width: int, fit: Any) -> None:
    try:
        frame = Frame.of(height, width, 1024, fit)
    except UserError:
        assert fit == "pad"  # too thin
        return
    assert Embedding(FEATURES, frame, "some").frame == frame


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES[0]}, r"is float32 \[2, 3, 4\], expected float32 \[1, C, h, w\]"),
        ({"features": FEATURES.astype(np.float64)}, r"is float64 \[1, 2, 3, 4\], expected float32"),
        ({"features": np.full_like(FEATURES, np.nan)}, "holds NaN or infinity"),
        ({"features": np.full_like(FEATURES, np.inf)}, "holds NaN or infinity"),
        ({"features": np.array([None])}, "is not an embedding"),
        ({"frame": np.array([48, 64, 24, 32, -32])}, "no picture of 64 x 48 pixels becomes 32 x 24"),
        ({"frame": np.array([48, 64, 24, 33, 32])}, "no picture of 64 x 48 pixels becomes 33 x 24"),
        ({"frame": np.array([-48, 64, 24, 32, 32])}, "no picture of 64 x -48 pixels becomes 32 x 24"),
        ({"frame": np.array([48, 64, 24, 32])}, r"its frame is int64 \[4\], expected five integers"),
        ({"frame": np.array([48, 64, 24, 32, np.nan])}, r"its frame is float64 \[5\], expected five"),
        ({"frame": np.array([2**30] * 2 + [32] * 3)}, "is of a picture of 1073741824 x 1073741824 pixels"),
        ({"weights": np.array(["some"])}, r"its weights are <U4 \[1\], expected a text"),
        ({"weights": np.array(5)}, r"its weights are int64 \[\], expected a text"),
        ({"weights": np.array("w" * 1001)}, "the name of its weights has more than 1000 letters"),
    ],
)
def test_refuses_in_one_line(path: Path, changes: dict[str, Any], message: str) -> None:
    write(path, **changes)
    with pytest.raises(UserError, match=message) as error:
        Embedding.load(path)
    assert "some.npz" in str(error.value)


def test_a_larger_picture_is_taken_where_that_is_said(path: Path) -> None:
    write(path, frame=np.array([20_000, 20_000, 32, 32, 32]))
    with pytest.raises(UserError, match="expected 110000000 pixels at most; raise max_pixels"):
        Embedding.load(path)
    assert Embedding.load(path, max_pixels=400_000_000).frame.height == 20_000


def test_size_is_checked_before_memory_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BYTES", 2**20)
    write(path, features=np.zeros((1, 1, 512, 512), np.float32))  # 2**20 bytes, and a header
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"its features have 1048704 bytes, expected 1048576 at most"):
            Embedding.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_header_that_promises_more_than_there_is(path: Path) -> None:
    write(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1, 2, 2**15, 2**15)}
    )
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in (parts | {"features.npy": header.getvalue()}).items():
            archive.writestr(name, part)
    with pytest.raises(UserError, match=r"is not an embedding that Embedding\.save wrote"):
        Embedding.load(path)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(path: Path, data: st.DataObject) -> None:
    np.savez_compressed(path, features=FEATURES, frame=np.array([48, 64, 24, 32, 32]), weights=np.array("s"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UserError):
        Embedding.load(path)
