"""A second decoder, for tools that take SAM's ONNX files: made, and held against Meta's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from structsam_runtime.contract import HAS_MASK_INPUT, MASK_INPUT
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.runners.base import Runner

from .choices import DecoderLayout
from .comparing import Arrays, run_all
from .description import graph_tensors
from .graph.meta_decoder import meta_decoder
from .graph.save import save

FILE = "decoder.meta.onnx"


def write_meta(folder: Path, model: Model, layout: DecoderLayout) -> dict[str, Any]:
    """Write FILE beside `decoder.onnx`; returns what the manifest says of it."""
    save(meta_decoder(onnx.load(folder / "decoder.onnx"), model, layout), folder / FILE)
    return {"file": FILE, "layout": layout, **graph_tensors(folder / FILE)}


def meta_iou(
    runner: Runner, sam: Any, layout: DecoderLayout, embedding: NDArray[np.float32], frame: Frame
) -> float:
    """Hold FILE against Meta's SamOnnxModel in PyTorch, on one picture.

    Args:
        runner: of FILE, opened and closed here.
        sam: the model, in fp32.
        layout: what FILE was written with.
        embedding: [1, C, h, w] of the picture.
        frame: of the picture.

    Returns:
        IoU with Meta's masks: the mean over those of a click, of a box, and of both with an earlier mask.
    """
    asked = usual_prompts(frame, 4 * embedding.shape[-1])
    feeds = [{"image_embeddings": embedding, **prompt} for prompt in asked]
    theirs = reference(sam, layout)
    ious = []
    for feed, made in zip(feeds, run_all(runner, feeds), strict=True):
        with torch.no_grad():
            expected = theirs(*(torch.from_numpy(values) for values in feed.values()))[0].numpy() > 0
        union = (expected | (made["masks"] > 0)).sum((2, 3))
        shared = (expected & (made["masks"] > 0)).sum((2, 3))
        ious.append(np.where(union == 0, 1.0, shared / np.maximum(union, 1)))
    return float(np.mean(ious))


def usual_prompts(frame: Frame, side: int) -> Iterator[Arrays]:
    """What tools feed beside the embedding: a click with its padding, the corners of a box, and both.

    Args:
        frame: of the picture.
        side: of the decoder's masks.
    """
    size = np.array([frame.width, frame.height], np.float64)
    click, box, blank = size / 2, [size / 4, size * 3 / 4], np.zeros((1, 1, side, side), np.float32)
    asked = (([click, np.zeros(2)], [1, -1], 0), (box, [2, 3], 0), ([click, *box], [0, 2, 3], 1))
    for places, labels, earlier in asked:
        yield {
            "point_coords": frame.to_model(np.array(places))[None].astype(np.float32),
            "point_labels": np.array([labels], np.float32),
            MASK_INPUT: blank,
            HAS_MASK_INPUT: np.array([earlier], np.float32),
            "orig_im_size": np.array([frame.height, frame.width], np.float32),
        }


def reference(sam: Any, layout: DecoderLayout) -> Any:
    """Meta's SamOnnxModel of a Sam, in PyTorch."""
    return _sam_onnx_model()(sam, return_single_mask=layout is DecoderLayout.META_SINGLE)


@cache
def _sam_onnx_model() -> Any:
    """`segment_anything.utils.onnx.SamOnnxModel`, without the package's own `__init__`: see `sam_modules`."""
    found = importlib.util.find_spec("segment_anything")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("segment_anything is not installed", name="segment_anything")
    name = f"{__name__}.segment_anything"
    package = ModuleType(name)
    package.__path__ = list(found.submodule_search_locations)
    sys.modules[name] = package
    return importlib.import_module(f"{name}.utils.onnx").SamOnnxModel
