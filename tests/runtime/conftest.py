"""A stand-in for an export, small enough to run in milliseconds, and Meta's own code to compare with."""

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor

from structsam_runtime import Predictor
from structsam_runtime.batch import local
from structsam_runtime.batch.attempts import attempt
from structsam_runtime.batch.job import Job
from structsam_runtime.batch.segment import Outcome, Segmenter
from structsam_runtime.manifest import Model
from structsam_runtime.predict.decoding import runs
from structsam_runtime.predict.image import resized
from structsam_runtime.predict.prompts import encode
from structsam_runtime.reference import FILE, Answer, Reference, Rounded, within
from structsam_runtime.thresholds import THRESHOLDS

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
SHRINK = (1.0, 0.5, 1.0, 1.5)  # size of the decoder's four masks
QUALITY = (0.9, 0.5, 0.8, 0.7)  # their predicted IoU


def _info(name: str, dtype: int, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _fake_encoder(path: Path) -> None:
    """Mean colour of every 16 x 16 patch, in 256 channels."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["patches"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["patches", "weight"], ["image_embedding"]),
    ]
    weight = np.random.default_rng(0).normal(size=(256, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "encoder",
        [_info("image", FLOAT, (1, 3, 1024, 1024))],
        [_info("image_embedding", FLOAT, (1, 256, 64, 64))],
        [numpy_helper.from_array(weight, "weight")],
    )
    _save(graph, path)


def _fake_decoder(path: Path) -> None:
    """Logits of an ellipse over the places that are not padding: centre at their mean, radii their deviation.

    mask = 10 (1 - ((x - cx) / rx)^2 - ((y - cy) / ry)^2) + has_mask_input * mask_input. For a box the radii
    are half its sides; they are at least 40 pixels. The predicted IoU is a constant plus the mean of the
    embedding, so that a test can tell pictures apart.
    """
    grid = (np.arange(256, dtype=np.float32) + 0.5) * 4
    constants = {
        "zero": np.array(0, np.int32),
        "last": np.array([-1], np.int64),
        "tokens": np.array([1], np.int64),
        "tiny": np.array(40, np.float32),
        "one": np.array(1, np.float32),
        "ten": np.array(10, np.float32),
        "shrink": np.array(SHRINK, np.float32).reshape(1, 4, 1, 1),
        "quality": np.array(QUALITY, np.float32).reshape(1, 4),
        "x": grid.reshape(1, 1, 1, 256),
        "y": grid.reshape(1, 1, 256, 1),
        "xi": np.array([0], np.int64),
        "yi": np.array([1], np.int64),
        "to4": np.array([-1, 1, 1, 1], np.int64),
        "to2": np.array([-1, 1], np.int64),
    }
    nodes = [
        helper.make_node("GreaterOrEqual", ["point_labels", "zero"], ["real"]),
        helper.make_node("Cast", ["real"], ["real_f"], to=FLOAT),
        helper.make_node("Unsqueeze", ["real_f", "last"], ["w"]),  # [P, N, 1]
        helper.make_node("ReduceSum", ["w", "tokens"], ["count"]),  # [P, 1, 1]
        helper.make_node("Mul", ["point_coords", "w"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "tokens"], ["sum"]),
        helper.make_node("Div", ["sum", "count"], ["centre"]),  # [P, 1, 2]
        helper.make_node("Sub", ["point_coords", "centre"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["off2"]),
        helper.make_node("Mul", ["off2", "w"], ["off2w"]),
        helper.make_node("ReduceSum", ["off2w", "tokens"], ["spread"]),
        helper.make_node("Div", ["spread", "count"], ["variance"]),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Max", ["deviation", "tiny"], ["radius"]),  # [P, 1, 2]
    ]
    for axis in "xy":
        nodes += [
            helper.make_node("Gather", ["centre", f"{axis}i"], [f"c{axis}_"], axis=2),
            helper.make_node("Gather", ["radius", f"{axis}i"], [f"r{axis}_"], axis=2),
            helper.make_node("Reshape", [f"c{axis}_", "to4"], [f"c{axis}"]),
            helper.make_node("Reshape", [f"r{axis}_", "to4"], [f"r{axis}"]),
            helper.make_node("Sub", [axis, f"c{axis}"], [f"d{axis}"]),
            helper.make_node("Mul", [f"r{axis}", "shrink"], [f"s{axis}"]),
            helper.make_node("Div", [f"d{axis}", f"s{axis}"], [f"q{axis}"]),
            helper.make_node("Mul", [f"q{axis}", f"q{axis}"], [f"e{axis}"]),
        ]
    nodes += [
        helper.make_node("Add", ["ex", "ey"], ["distance"]),
        helper.make_node("Sub", ["one", "distance"], ["inside"]),
        helper.make_node("Mul", ["inside", "ten"], ["ellipse"]),
        helper.make_node("Reshape", ["has_mask_input", "to4"], ["has"]),
        helper.make_node("Mul", ["mask_input", "has"], ["previous"]),
        helper.make_node("Add", ["ellipse", "previous"], ["masks"]),
        helper.make_node("ReduceMean", ["image_embedding"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["has_mask_input", "has_mask_input"], ["none"]),
        helper.make_node("Add", ["none", "mean"], ["mean_p"]),
        helper.make_node("Reshape", ["mean_p", "to2"], ["mean_2"]),
        helper.make_node("Add", ["quality", "mean_2"], ["iou_predictions"]),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            _info("image_embedding", FLOAT, (1, 256, 64, 64)),
            _info("point_coords", FLOAT, ("prompts", "points", 2)),
            _info("point_labels", INT32, ("prompts", "points")),
            _info("mask_input", FLOAT, ("prompts", 1, 256, 256)),
            _info("has_mask_input", FLOAT, ("prompts",)),
        ],
        [
            _info("masks", FLOAT, ("prompts", 4, 256, 256)),
            _info("iou_predictions", FLOAT, ("prompts", 4)),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    _save(graph, path)


def _write_manifest(folder: Path, sam: Model) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.glob("*.onnx")
    }
    manifest = {
        "format": 2,
        "weights": {"source": "stand-in", "sha256": None},
        "name": "stand-in",
        "model": asdict(sam),
        "files": files,
        "unknown": {"kept": "out"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture(scope="session")
def make_export(sam: Model) -> Callable[[Path], Path]:
    """Writes an export of the fake encoder and decoder into a folder."""

    def make(folder: Path) -> Path:
        _fake_encoder(folder / "encoder.onnx")
        _fake_decoder(folder / "decoder.onnx")
        _write_manifest(folder, sam)
        return folder

    return make


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory, make_export: Callable[[Path], Path]) -> Path:
    """An export that tests only read."""
    return make_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="session")
def checked_folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_export: Callable[[Path], Path],
    sign_again: Callable[[Path], None],
    sam: Model,
) -> Path:
    """An export that travels with the answers of its own graphs, as if they were PyTorch's; only read."""
    folder = make_export(tmp_path_factory.mktemp("checked"))
    with Predictor.load(folder, threads=1) as predictor:
        answers = [_answer(predictor, name) for name in ("coffee", "chelsea")]
    limits = replace(THRESHOLDS["fp32"], error=None, cosine=None, plans=None)
    Reference("0123", limits, "PyTorch 2.9.0 on x86_64", answers).save(folder / FILE)
    path = folder / "manifest.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"id": "0123", "files": {**said["files"], FILE: {}}}))
    sign_again(folder)
    return folder


def _answer(predictor: Predictor, name: str) -> Answer:
    """What a predictor says of a photograph and two boxes."""
    picture = getattr(skimage.data, name)()
    predictor.set_image(picture)
    frame = predictor.frame
    boxes = encode(frame, box=[[100, 80, 300, 260], [20, 30, 90, 120]])
    ((_, logits, iou),) = runs(predictor.decoder, predictor.model, predictor.get_image_embedding(), boxes)
    return Answer(
        name=name,
        frame=frame,
        pixels=resized(picture, frame, "bilinear"),
        prior=None,
        prompts=boxes,
        embedding=Rounded.of(predictor.get_image_embedding()),
        masks=within(logits, frame),
        iou=iou,
    )


@pytest.fixture(scope="session")
def photos() -> dict[str, NDArray[np.uint8]]:
    """Photographs, uint8 RGB: 512 x 512, 300 x 451 and its transpose, 400 x 600."""
    chelsea = skimage.data.chelsea()
    return {
        "astronaut": skimage.data.astronaut(),
        "chelsea": chelsea,
        "chelsea upright": np.ascontiguousarray(chelsea.transpose(1, 0, 2)),
        "coffee": skimage.data.coffee(),
    }


def _slow_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression of boxes [N, 4] of one category, one by one: what stays, best first."""
    assert not idxs.any()
    kept: list[int] = []
    for candidate in scores.argsort(descending=True, stable=True).tolist():
        box = boxes[candidate]
        inner = [
            (torch.minimum(box[2:], boxes[other, 2:]) - torch.maximum(box[:2], boxes[other, :2])).clamp(min=0)
            for other in kept
        ]
        shared = [sides[0] * sides[1] for sides in inner]
        areas = [_box_area(boxes[[candidate, other]]).sum() for other in kept]
        overlap = [float(part / (both - part)) for part, both in zip(shared, areas, strict=True)]
        if not any(value > iou_threshold for value in overlap):
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.int64)


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _stand_in_torchvision() -> dict[str, ModuleType]:
    """The four functions of torchvision that Meta's predictor and mask generator use."""
    names = ("torchvision", "torchvision.transforms", "torchvision.ops")
    functional, boxes = ModuleType("torchvision.transforms.functional"), ModuleType("torchvision.ops.boxes")
    functional.to_pil_image = Image.fromarray  # type: ignore[attr-defined]
    functional.resize = lambda image, size: image.resize(  # type: ignore[attr-defined]
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    boxes.batched_nms, boxes.box_area = _slow_nms, _box_area  # type: ignore[attr-defined]
    return {name: ModuleType(name) for name in names} | {part.__name__: part for part in (functional, boxes)}


@pytest.fixture(scope="session")
def meta() -> SimpleNamespace:
    """Classes of Meta's segment_anything, which imports torchvision: a stand-in serves where it is missing.

    Nothing of either stays in sys.modules, where other tests would find it.
    """
    before = set(sys.modules)
    if importlib.util.find_spec("torchvision") is None:
        sys.modules.update(_stand_in_torchvision())
    try:
        transforms = importlib.import_module("segment_anything.utils.transforms")
        modeling = importlib.import_module("segment_anything.modeling")
        predictor = importlib.import_module("segment_anything.predictor")
        automatic = importlib.import_module("segment_anything.automatic_mask_generator")
        amg = importlib.import_module("segment_anything.utils.amg")
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("segment_anything", "torchvision"):
                del sys.modules[name]
    return SimpleNamespace(
        ResizeLongestSide=transforms.ResizeLongestSide,
        Sam=modeling.Sam,
        PromptEncoder=modeling.PromptEncoder,
        SamPredictor=predictor.SamPredictor,
        SamAutomaticMaskGenerator=automatic.SamAutomaticMaskGenerator,
        amg=amg,
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`structsam batch` without a process of its own, so that patches and captures reach its work."""

    def run(job: Job, images: Sequence[str]) -> Iterator[Outcome]:
        with Segmenter(job) as segmenter:
            for image in images:
                yield attempt(job, image, segmenter)

    monkeypatch.setattr(local, "run", run)
