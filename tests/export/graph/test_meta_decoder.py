"""The decoder with Meta's names, as tools feed it, against Meta's SamOnnxModel in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from structsam_export import pipeline
from structsam_export.choices import DecoderLayout
from structsam_export.config import ExportConfig
from structsam_export.description import model_of
from structsam_export.meta import FILE, meta_iou, reference, write_meta
from structsam_export.models.checkpoints import load_sam
from structsam_runtime import OnnxRuntimeRunner
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.progress import Progress

SIDE, LOW = 256, 128  # half of vit_nano's square, and its masks
SIZES = [(400, 600), (600, 400), (512, 512), (37, 901), (1080, 720), (1, 1)]
Feed = dict[str, NDArray[np.float32]]


pytestmark = [pytest.mark.export, pytest.mark.xdist_group("meta_decoder")]  # one trace for all


@pytest.fixture(scope="module")
def sam() -> Any:
    """vit_nano: its decoder is trained and small."""
    return load_sam("vit_nano", SIDE, None, random_weights=False)


@pytest.fixture(scope="module")
def model(sam: Any) -> Model:
    return model_of(ExportConfig("vit_nano", image_size=SIDE), sam)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sam: Any) -> Path:
    """Holds `decoder.onnx`, traced once."""
    folder = tmp_path_factory.mktemp("out")
    pipeline.build_decoder(
        ExportConfig("vit_nano", image_size=SIDE), sam, folder / "decoder.onnx", Progress(Console(quiet=True))
    )
    return folder


@pytest.fixture(scope="module", params=list(DecoderLayout))
def both(
    request: pytest.FixtureRequest, folder: Path, sam: Any, model: Model
) -> tuple[onnxruntime.InferenceSession, Any]:
    """The file in ONNX Runtime, and Meta's model."""
    write_meta(folder, model, request.param)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / FILE, options), reference(sam, request.param)


def embedding(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(1, 128, 32, 32)).astype(np.float32)


def longest_side(coords: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Places in the picture to places in the model's square, as ResizeLongestSide.apply_coords has them."""
    height, width = size
    scale = SIDE / max(size)
    tall, wide = int(height * scale + 0.5), int(width * scale + 0.5)
    return (coords * [wide / width, tall / height]).astype(np.float32)


def feed(
    size: tuple[int, int], coords: Any, labels: Any, earlier: NDArray[np.float32] | None = None, seed: int = 0
) -> Feed:
    """What Meta's notebook and samexporter hand over: places and labels with a leading 1, sizes as floats."""
    return {
        "image_embeddings": embedding(seed),
        "point_coords": longest_side(np.array(coords, np.float64), size)[None],
        "point_labels": np.array(labels, np.float32)[None],
        "mask_input": np.zeros((1, 1, LOW, LOW), np.float32) if earlier is None else earlier,
        "has_mask_input": np.array([earlier is not None], np.float32),
        "orig_im_size": np.array(size, np.float32),
    }


def check(both: Any, asked: Feed) -> list[NDArray[np.float32]]:
    """All three outputs, and masks that are neither nothing nor everything where they have room for it."""
    session, theirs = both
    made = session.run(None, asked)
    with torch.no_grad():
        expected = [one.numpy() for one in theirs(*(torch.from_numpy(values) for values in asked.values()))]
    for one, other, tolerance in zip(made, expected, (2e-3, 1e-5, 2e-4), strict=True):
        assert (one.dtype, one.shape) == (np.float32, other.shape)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))
    assert np.mean((made[0] > 0) == (expected[0] > 0)) > 0.999
    return made


def test_names_ranks_and_types_are_metas(both: Any) -> None:
    session, _ = both
    told = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    assert told == {
        "image_embeddings": ("tensor(float)", [1, 128, 32, 32]),
        "point_coords": ("tensor(float)", [1, "num_points", 2]),
        "point_labels": ("tensor(float)", [1, "num_points"]),
        "mask_input": ("tensor(float)", [1, 1, LOW, LOW]),
        "has_mask_input": ("tensor(float)", [1]),
        "orig_im_size": ("tensor(float)", [2]),
    }
    masks, iou, low_res = session.get_outputs()
    assert [one.name for one in (masks, iou, low_res)] == ["masks", "iou_predictions", "low_res_masks"]
    count = iou.shape[1]
    assert count in (1, 4)
    assert (len(masks.shape), masks.shape[:2], low_res.shape) == (4, [1, count], [1, count, LOW, LOW])


@pytest.mark.parametrize("size", SIZES)
def test_a_click_with_its_padding_at_any_size_of_one_graph(both: Any, size: tuple[int, int]) -> None:
    height, width = size
    check(both, feed(size, [[width * 0.4, height * 0.5], [0, 0]], [1, -1]))


def test_clicks_of_both_kinds(both: Any) -> None:
    check(both, feed((400, 600), [[250, 187], [561, 323], [30, 40], [0, 0]], [1, 0, 1, -1]))


@pytest.mark.parametrize("padded", [True, False], ids=["samexporter", "notebook"])
def test_a_box_is_labels_two_and_three(both: Any, padded: bool) -> None:
    """Samexporter adds a padding place to everything, the notebook only to clicks without a box."""
    corners = [[120, 60], [430, 330]]
    if padded:
        check(both, feed((400, 600), [*corners, [0, 0]], [2, 3, -1]))
    else:
        check(both, feed((400, 600), corners, [2, 3]))


def test_a_box_with_a_click_off_the_object_and_the_mask_before(both: Any) -> None:
    *_, low_res = check(both, feed((400, 600), [[250, 187], [0, 0]], [1, -1]))
    earlier = low_res[:, :1]
    check(both, feed((400, 600), [[260, 200], [120, 60], [430, 330]], [0, 2, 3], earlier))


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from([0, 1])), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_whatever_is_asked(both: Any, height: int, width: int, clicks: Any, box: bool, seed: int) -> None:
    if 2 * SIDE * min(height, width) < max(height, width):  # too thin for a row of the square
        height = width = min(height, width)
    places = [[u * width, v * height] for u, v, _ in clicks]
    labels = [label for *_, label in clicks]
    places += [[0.1 * width, 0.2 * height], [0.8 * width, 0.9 * height]] if box else [[0, 0]]
    labels += [2, 3] if box else [-1]
    check(both, feed((height, width), places, labels, seed=seed))


def test_the_choice_of_one_is_that_of_the_places(folder: Path, sam: Any, model: Model) -> None:
    """A lone click gets the best of three, everything else the first."""
    sessions = []
    for layout in (DecoderLayout.META, DecoderLayout.META_SINGLE):
        write_meta(folder, model, layout)
        sessions.append(onnxruntime.InferenceSession(folder / FILE))
    for coords, labels in (
        ([[250, 187], [0, 0]], [1, -1]),
        ([[250, 187], [9, 9], [0, 0]], [1, 0, -1]),
        ([[120, 60], [430, 330], [0, 0]], [2, 3, -1]),
    ):
        (_, four, _), (_, one, _) = (
            session.run(None, feed((400, 600), coords, labels)) for session in sessions
        )
        assert one[0, 0] == (four[0, 0] if len(labels) > 2 else four[0, 1:].max())


def test_verification_measures_masks_and_sees_another_decoder(folder: Path, sam: Any, model: Model) -> None:
    layout, frame = DecoderLayout.META, Frame.of(300, 451, SIDE)
    said = write_meta(folder, model, layout)
    assert (said["file"], said["layout"]) == ("decoder.meta.onnx", "meta")
    assert next(one["name"] for one in said["inputs"]) == "image_embeddings"
    assert meta_iou(OnnxRuntimeRunner(folder / FILE), sam, layout, embedding(), frame) > 0.999
    other = load_sam("vit_nano", SIDE, None, random_weights=False)
    other.mask_decoder.output_upscaling[0].weight.mul_(-1)
    assert meta_iou(OnnxRuntimeRunner(folder / FILE), other, layout, embedding(), frame) < 0.9
