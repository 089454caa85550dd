"""A folder in COCO's panoptic layout, made of drawn pictures, and a SAM small enough to train in a test."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.training import loop
from structsam_export.training.data import Photos, read_photos

ANNOTATED, PLAIN = 24, 2
THING, STUFF = 1, 9


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 80 x 60 with a thing, a stuff region and a crowd, ids 100 .. 123; then two without any."""
    folder = tmp_path_factory.mktemp("coco")
    masks = folder / "annotations" / "panoptic_tiny"
    masks.mkdir(parents=True)
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    annotations = []
    for id in range(100, 100 + ANNOTATED + PLAIN):
        image = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{id:012d}.jpg")
        if id >= 100 + ANNOTATED:
            continue
        ids = np.zeros((60, 80), np.int64)
        ids[10:50, 5:45], ids[:8], ids[55:] = 70000, 300, 7  # one id for each byte of the colour
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(colours).save(masks / f"{id:012d}.png")
        segments = [
            {"id": 70000, "category_id": THING, "iscrowd": 0},
            {"id": 300, "category_id": STUFF, "iscrowd": 0},
            {"id": 7, "category_id": THING, "iscrowd": 1},
        ]
        annotations.append({"image_id": id, "file_name": f"{id:012d}.png", "segments_info": segments})
    listing = {
        "categories": [{"id": THING, "isthing": 1}, {"id": STUFF, "isthing": 0}],
        "annotations": annotations[::-1],  # their order must not matter
    }
    masks.with_suffix(".json").write_text(json.dumps(listing))
    return folder


@pytest.fixture(scope="session")
def photos(folder: Path) -> Photos:
    return read_photos(folder)


@pytest.fixture
def small_nano(tiny_architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training builds while a test runs."""
    monkeypatch.setitem(ARCHITECTURES, loop.ARCH, tiny_architecture)
