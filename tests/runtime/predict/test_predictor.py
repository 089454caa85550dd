"""The predictor on the fake export: shapes, batches, state, and where a mask comes out."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from structsam_runtime import (
    AutomaticMaskGenerator,
    Embedding,
    OnnxRuntimeRunner,
    Predictor,
    Prompt,
    UserError,
)
from structsam_runtime.manifest import Model
from structsam_runtime.predict import decoding

BOX = np.array([100, 80, 400, 260])


@pytest.fixture(scope="module")
def predictor(export_folder: Path, photos: dict[str, NDArray[np.uint8]]) -> Iterator[Predictor]:
    """Loaded, with the photograph chelsea (300 x 451) set."""
    with Predictor.load(export_folder, threads=1) as predictor:
        predictor.set_image(photos["chelsea"])
        yield predictor


def test_one_box_gives_meta_shapes(predictor: Predictor) -> None:
    masks, iou, low_res = predictor.predict(box=BOX)
    assert (masks.shape, masks.dtype) == ((3, 300, 451), np.bool_)
    assert (iou.shape, iou.dtype) == ((3,), np.float32)
    assert (low_res.shape, low_res.dtype) == ((3, 256, 256), np.float32)
    masks, iou, low_res = predictor.predict(box=BOX, multimask_output=False)
    assert (masks.shape, iou.shape, low_res.shape) == ((1, 300, 451), (1,), (1, 256, 256))


def test_the_mask_lies_where_the_box_is(predictor: Predictor) -> None:
    (mask,), _, _ = predictor.predict(box=BOX, multimask_output=False)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # The fake decoder fills the box with an ellipse; its bounding box is the box, to the bilinear step.
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], BOX, atol=6)


def test_a_stretched_picture_is_asked_and_answered_on_each_axis(
    export_folder: Path, photos: dict[str, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Predictor.load(export_folder, threads=1) as predictor:
        predictor.model = dataclasses.replace(predictor.model, fit="stretch")
        predictor.set_image(photos["chelsea"])  # 300 x 451
        fed: list[Any] = []
        infer = predictor.decoder.infer
        monkeypatch.setattr(predictor.decoder, "infer", lambda feeds: fed.append(feeds) or infer(feeds))
        (mask,), _, _ = predictor.predict(box=BOX, multimask_output=False)
    corners = BOX.reshape(2, 2) * [1024 / 451, 1024 / 300]
    np.testing.assert_allclose(fed[0]["point_coords"][0], corners, rtol=1e-6)
    assert mask.shape == (300, 451)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], BOX, atol=6)


def test_single_mask_is_the_first_and_multimask_the_other_three(predictor: Predictor) -> None:
    scale = np.array([1024 / 451, 681 / 300])  # 300 x 451 becomes 681 x 1024
    feeds = {
        "image_embedding": predictor.get_image_embedding(),
        "point_coords": (BOX.reshape(1, 2, 2) * scale).astype(np.float32),
        "point_labels": np.array([[2, 3]], np.int32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    four = predictor.decoder.infer(feeds)
    _, iou, low_res = predictor.predict(box=BOX)
    np.testing.assert_array_equal(low_res, four["masks"][0, 1:])
    np.testing.assert_array_equal(iou, four["iou_predictions"][0, 1:])
    _, iou, low_res = predictor.predict(box=BOX, multimask_output=False)
    np.testing.assert_array_equal(low_res, four["masks"][0, :1])
    np.testing.assert_array_equal(iou, four["iou_predictions"][0, :1])


def test_a_batch_is_one_run_of_the_decoder_and_equals_single_prompts(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = np.array([BOX, [10, 20, 60, 90], [200, 100, 450, 290]])
    singles = [predictor.predict(box=box, multimask_output=False) for box in boxes]
    runs = []
    infer = predictor.decoder.infer
    monkeypatch.setattr(predictor.decoder, "infer", lambda feeds: runs.append(feeds) or infer(feeds))
    masks, iou, low_res = predictor.predict(box=boxes, multimask_output=False)
    assert len(runs) == 1
    assert (masks.shape, iou.shape, low_res.shape) == ((3, 1, 300, 451), (3, 1), (3, 1, 256, 256))
    for index, single in enumerate(singles):
        np.testing.assert_array_equal(masks[index], single[0])
        np.testing.assert_allclose(low_res[index], single[2], rtol=0, atol=1e-4)


def test_batches_of_points_with_boxes_and_masks(predictor: Predictor) -> None:
    points = np.array([[[150, 120]], [[220, 130]]])
    masks, iou, low_res = predictor.predict(points, np.ones((2, 1)), np.array([BOX, BOX]))
    assert (masks.shape, iou.shape) == ((2, 3, 300, 451), (2, 3))
    masks, _, _ = predictor.predict(points, np.ones((2, 1)), mask_input=low_res[:, :1])
    assert masks.shape == (2, 3, 300, 451)


def test_many_prompts_of_any_kind_are_one_run_and_equal_single_ones(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [[150, 120], [220, 130], [160, 90]]
    _, _, earlier = predictor.predict(box=BOX, multimask_output=False)
    asked = [
        Prompt(box=BOX),
        Prompt(point_coords=points[:1], point_labels=[1]),
        Prompt(point_coords=points, point_labels=[1, 0, 1], box=BOX),
        Prompt(box=BOX, mask_input=earlier),
        Prompt(box=BOX, mask_input=earlier[0]),
    ]
    singles = [predictor.predict(**{**vars(one), "mask_input": None}) for one in asked[:3]]
    singles += [predictor.predict(box=BOX, mask_input=earlier)] * 2
    runs = []
    infer = predictor.decoder.infer
    monkeypatch.setattr(predictor.decoder, "infer", lambda feeds: runs.append(feeds) or infer(feeds))
    masks, iou, low_res = predictor.predict_many(asked)
    assert len(runs) == 1
    assert (masks.shape, iou.shape, low_res.shape) == ((5, 3, 300, 451), (5, 3), (5, 3, 256, 256))
    for index, (_, quality, logits) in enumerate(singles):
        np.testing.assert_allclose(low_res[index], logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(iou[index], quality, rtol=0, atol=1e-6)


KINDS = ["right", "outside", "nan", "shape", "batch", "mask", "huge", "empty"]


@given(st.lists(st.sampled_from(KINDS), max_size=6))
def test_a_wrong_prompt_of_many_fails_alone(predictor: Predictor, kinds: list[str]) -> None:
    made = {
        "right": Prompt(box=BOX),
        "outside": Prompt(box=[500, 0, 600, 9]),
        "nan": Prompt(box=[0, 0, np.nan, 9]),
        "shape": Prompt(box=[0, 0, 9]),
        "batch": Prompt(box=[BOX, BOX]),
        "mask": Prompt(box=BOX, mask_input=np.zeros((3, 3))),
        "huge": Prompt([[10**400, 5]], [1]),
        "empty": Prompt(),
    }
    asked = [made[kind] for kind in kinds]
    if asked and "right" not in kinds:
        with pytest.raises(UserError, match=f"^(none of {len(kinds)} prompts is right: )?prompt 1"):
            predictor.predict_many(asked)
        return
    answers = predictor.predict_many(asked, multimask_output=False)
    masks, iou, low_res = answers
    assert list(answers.errors) == [number for number, kind in enumerate(kinds, 1) if kind != "right"]
    assert all(f"prompt {number}" in told for number, told in answers.errors.items())
    assert (masks.shape, iou.shape) == ((len(kinds), 1, 300, 451), (len(kinds), 1))
    alone = predictor.predict(box=BOX, multimask_output=False)
    for index, kind in enumerate(kinds):
        if kind == "right":
            np.testing.assert_array_equal(masks[index], alone[0])
            np.testing.assert_allclose(iou[index], alone[1], rtol=0, atol=1e-6)
        else:
            assert not masks[index].any()
            assert np.isnan(iou[index]).all()
            assert np.isnan(low_res[index]).all()


def test_what_fails_is_logged(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    predictor.predict_many([Prompt(box=BOX), Prompt(box=[9, 9, 1, 1])])
    (line,) = caplog.messages
    assert line.startswith("1 of 2 prompts have no answer: prompt 2: the box (9, 9, 1, 1) is turned around")


@pytest.mark.parametrize(
    "nothing",
    [
        {"box": np.zeros((0, 4))},
        {"box": []},
        {"box": torch.zeros((0, 4))},
        {"point_coords": np.zeros((0, 3, 2)), "point_labels": np.zeros((0, 3))},
        {"box": np.zeros((0, 4)), "point_coords": np.zeros((0, 1, 2)), "point_labels": np.zeros((0, 1))},
        {"box": np.zeros((0, 4)), "mask_input": np.zeros((0, 1, 256, 256))},
    ],
)
@pytest.mark.parametrize(
    ("options", "count", "dtype"),
    [
        ({}, 3, np.bool_),
        ({"multimask_output": False, "return_logits": True}, 1, np.float32),
        ({"best": True}, 1, np.bool_),
    ],
)
def test_no_boxes_give_no_masks(
    predictor: Predictor,
    nothing: dict[str, Any],
    options: dict[str, bool],
    count: int,
    dtype: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor.decoder, "infer", None)  # an engine takes at least one prompt
    for made in (predictor.predict(**nothing, **options), predictor.predict_many([], **options)):
        masks, iou, low_res = made
        assert (masks.shape, masks.dtype) == ((0, count, 300, 451), dtype)
        assert (iou.shape, low_res.shape) == ((0, count), (0, count, 256, 256))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_are_prompts(predictor: Predictor, dtype: torch.dtype) -> None:
    box = torch.tensor(BOX, dtype=torch.float64).to(dtype)  # bfloat16 rounds some of it
    places, labels = torch.tensor([[150, 120], [220, 130]]).to(dtype), torch.tensor([1, 0])
    mask = torch.full((1, 256, 256), 2, dtype=dtype)
    expected = predictor.predict(places.tolist(), [1, 0], box.tolist(), np.full((1, 256, 256), 2.0))
    if dtype.is_floating_point:
        box, places, mask = (one.requires_grad_() for one in (box, places, mask))
    for given_box in (box, list(box)):
        for came, there in zip(predictor.predict(places, labels, given_box, mask), expected, strict=True):
            np.testing.assert_array_equal(came, there)
    (many,) = predictor.predict_many([Prompt(places, labels, box, mask)]).iou
    np.testing.assert_array_equal(many, expected[1])


def test_more_prompts_than_one_run_takes(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[x, 10, x + 50, 60] for x in range(10)])
    expected = predictor.predict(box=boxes)
    sizes: list[int] = []
    infer = predictor.decoder.infer
    monkeypatch.setattr(decoding, "PROMPTS", 4)
    monkeypatch.setattr(
        predictor.decoder, "infer", lambda feeds: sizes.append(len(feeds["point_coords"])) or infer(feeds)
    )
    for came, there in zip(predictor.predict(box=boxes), expected, strict=True):
        np.testing.assert_allclose(came, there, rtol=0, atol=1e-4)
    many = predictor.predict_many([Prompt(box=box) for box in boxes], best=True)
    np.testing.assert_allclose(many.iou[:, 0], expected[1].max(axis=1), rtol=0, atol=1e-6)
    assert sizes == [4, 4, 2] * 2


def test_a_model_that_gives_nan_is_refused(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    infer = predictor.decoder.infer
    monkeypatch.setattr(
        predictor.decoder, "infer", lambda feeds: {name: one * np.nan for name, one in infer(feeds).items()}
    )
    ask: list[Callable[[], object]] = [
        lambda: predictor.predict(box=BOX),
        lambda: predictor.predict_many([Prompt(box=BOX)]),
        lambda: AutomaticMaskGenerator(predictor, points_per_side=1).generate(np.zeros((9, 9, 3), np.uint8)),
    ]
    for one in ask:
        with pytest.raises(UserError, match=r"decoder\.onnx gives NaN or infinity"):
            one()


def test_what_is_given_out_changes_nothing(predictor: Predictor) -> None:
    before = predictor.predict(box=BOX)
    for features in (predictor.embedding.features, predictor.get_image_embedding()):
        with pytest.raises(ValueError, match="read-only"):
            features[...] = 0
    for came, there in zip(predictor.predict(box=BOX), before, strict=True):
        np.testing.assert_array_equal(came, there)
        came[...] = 0
    for came, there in zip(predictor.predict(box=BOX), before, strict=True):
        np.testing.assert_array_equal(came, there)


def test_the_best_mask_has_the_highest_predicted_iou(predictor: Predictor) -> None:
    boxes = np.array([BOX, [10, 20, 60, 90]])
    masks, iou, low_res = predictor.predict(box=boxes)
    best, quality, logits = predictor.predict(box=boxes, best=True)
    assert (best.shape, quality.shape, logits.shape) == ((2, 1, 300, 451), (2, 1), (2, 1, 256, 256))
    for index, first in enumerate(iou.argmax(axis=1)):
        np.testing.assert_array_equal(best[index, 0], masks[index, first])
        np.testing.assert_array_equal(logits[index, 0], low_res[index, first])
        assert quality[index, 0] == iou[index].max()


def test_a_picture_is_encoded_here_and_decoded_elsewhere(
    export_folder: Path, photos: dict[str, NDArray[np.uint8]], tmp_path: Path
) -> None:
    with Predictor.load(export_folder, threads=1) as predictor:
        pictures = [photos[name] for name in ("astronaut", "coffee", "chelsea")]
        embeddings = predictor.encode(pictures)
        with pytest.raises(UserError, match="no picture is set"):
            _ = predictor.embedding
        predictor.set_image(photos["coffee"])
        expected = predictor.predict(box=BOX)
        predictor.embedding.save(tmp_path / "coffee.npz")
        np.testing.assert_array_equal(embeddings[1].features, predictor.embedding.features)
    with Predictor.load(export_folder, threads=1) as elsewhere:
        elsewhere.set_embedding(Embedding.load(tmp_path / "coffee.npz"))
        for came, there in zip(elsewhere.predict(box=BOX), expected, strict=True):
            np.testing.assert_array_equal(came, there)


def test_tells_what_it_holds(export_folder: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    with Predictor.load(export_folder, threads=1) as predictor:
        held = predictor.memory()
        assert held.embedding == 0
        assert held.encoder.weights == (export_folder / "encoder.onnx").stat().st_size
        assert held.decoder.weights == (export_folder / "decoder.onnx").stat().st_size
        predictor.set_image(photos["coffee"])
        assert predictor.memory().embedding == predictor.embedding.features.nbytes == 4 * 256 * 64 * 64


def test_refuses_embeddings_of_another_model(predictor: Predictor, tmp_path: Path) -> None:
    own = predictor.embedding
    with pytest.raises(UserError, match="made by the weights 'medsam', this decoder has 'vit_b, stand-in'"):
        predictor.set_embedding(dataclasses.replace(own, weights="medsam"))
    with pytest.raises(UserError, match=r"shape \[1, 256, 32, 32\] for pictures of 1024 pixels"):
        predictor.set_embedding(dataclasses.replace(own, features=own.features[..., :32, :32]))
    with pytest.raises(UserError, match=r"no file .*missing\.npz"):
        Embedding.load(tmp_path / "missing.npz")
    own.save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.npz is not an embedding that Embedding\.save wrote"):
        Embedding.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz is not an embedding"):
        Embedding.load(tmp_path / "other.npz")
    np.testing.assert_array_equal(predictor.embedding.features, own.features)  # what was set stays set


def test_mask_input_reaches_the_decoder(predictor: Predictor) -> None:
    _, _, first = predictor.predict(box=BOX, multimask_output=False)
    _, _, second = predictor.predict(box=BOX, mask_input=first, multimask_output=False)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)


def test_logits_above_the_threshold_are_the_mask(predictor: Predictor) -> None:
    masks, _, _ = predictor.predict(box=BOX)
    logits, _, _ = predictor.predict(box=BOX, return_logits=True)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(masks, logits > 0)


def test_another_picture_is_another_embedding(
    export_folder: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    with Predictor.load(export_folder, threads=1) as predictor:
        with pytest.raises(UserError, match="no picture is set; call set_image first"):
            predictor.predict(box=BOX)
        found = []
        for name in ("astronaut", "coffee"):
            predictor.set_image(photos[name])
            masks, iou, _ = predictor.predict(box=BOX)
            assert masks.shape[1:] == photos[name].shape[:2]
            found.append(iou)
        assert not np.allclose(*found)
        with pytest.raises(UserError, match="expected uint8 RGB"):
            predictor.set_image(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="no picture is set"):  # and not the last one
            predictor.get_image_embedding()
    with pytest.raises(UserError, match="no picture is set"):
        predictor.predict(box=BOX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no prompt"),
        ({"mask_input": np.zeros((2, 256, 256))}, r"shape \[2, 256, 256\], expected \[1, 256, 256\]"),
        ({"box": BOX, "mask_input": np.zeros((256, 256))}, r"shape \[256, 256\], expected \[1, 256, 256\]"),
        ({"box": [BOX] * 2, "mask_input": np.zeros((1, 256, 256))}, r"expected \[2, 1, 256, 256\]"),
        ({"box": BOX, "mask_input": np.full((1, 256, 256), np.nan)}, "mask_input holds NaN or infinity"),
        ({"box": BOX, "mask_input": "mask"}, "mask_input is not an array of numbers"),
    ],
)
def test_refuses_in_one_line(predictor: Predictor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictor.predict(**arguments)


def test_refuses_runners_that_are_no_encoder_and_decoder(export_folder: Path, sam: Model) -> None:
    encoder, decoder = (OnnxRuntimeRunner(export_folder / f"{name}.onnx") for name in ("encoder", "decoder"))
    with pytest.raises(UserError, match=r"decoder\.onnx has no output image_embedding; is it the right file"):
        Predictor(decoder, encoder, sam).__enter__()
    with pytest.raises(UserError, match="is not open"):  # what had been entered was left again
        decoder.infer({})


def test_load_checks_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        Predictor.load(tmp_path)


def test_bgr_is_rgb_the_other_way_round(export_folder: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    rgb = photos["chelsea"]
    with Predictor.load(export_folder, threads=1) as predictor:
        predictor.set_image(rgb)
        expected = predictor.get_image_embedding()
        predictor.set_image(rgb[:, :, ::-1], "BGR")
        np.testing.assert_array_equal(predictor.get_image_embedding(), expected)
        predictor.set_image(rgb, image_format="BGR")
        assert not np.array_equal(predictor.get_image_embedding(), expected)
        for wrong in (rgb[:, :, 0], rgb[0], "rgb"):
            with pytest.raises(UserError, match="expected uint8 RGB"):
                predictor.set_image(wrong, "BGR")
        with pytest.raises(UserError, match="image_format is 'bgr', expected 'RGB' or 'BGR'"):
            predictor.set_image(rgb, image_format="bgr")
        with pytest.raises(UserError, match="no picture is set"):
            predictor.get_image_embedding()
