"""Folders of drawn pictures like those that training reads, and a SAM small enough to train in a test."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structsam_export.models.architectures import Architecture
from structsam_export.training.nano import NANO
from structsam_export.training.photos import Photos, read_data, read_photos

ANNOTATED, PLAIN = 24, 2
THING, STUFF = 1, 9
SOURCES = {"coco_minis": "instance", "duts_tr": "salient (union, 1 id)", "powerlines_pld": "thin structure"}
MAPPED = 4


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A panoptic folder and one of label maps, side by side."""
    data = tmp_path_factory.mktemp("data")
    _panoptic(data / "coco-train")
    _maps(data / "train")
    return data


@pytest.fixture(scope="session")
def folder(data: Path) -> Path:
    """Panoptic: 80 x 60 with a thing, a stuff region and a crowd, ids 100 .. 123; then two without any."""
    return data / "coco-train"


def _maps(folder: Path) -> None:
    """For each of SOURCES, pictures of 48 x 40 with an object in two pieces, another, and unknown pixels."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    labels = np.zeros((40, 48), np.uint8)
    labels[4:20, 4:20] = labels[4:20, 30:44] = 1
    labels[26:36, 4:40] = 2
    labels[38:] = 255
    rng = np.random.default_rng(1)
    for source in SOURCES:
        for index in range(MAPPED):
            image = np.where(labels[..., None] == 1, 220, rng.integers(0, 120, (40, 48, 3))).astype(np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{source}_{index}.png")
            Image.fromarray(labels).save(folder / "labels" / f"{source}_{index}.png")
    (folder / "sources.json").write_text(json.dumps({name: {"kind": kind} for name, kind in SOURCES.items()}))


def _panoptic(folder: Path) -> None:
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


@pytest.fixture(scope="session")
def photos(folder: Path) -> Photos:
    return read_photos(folder)


@pytest.fixture(scope="session")
def every(data: Path) -> Photos:
    return read_data(data)


@pytest.fixture(scope="session")
def tiny_nano(tiny_architecture: Architecture) -> Architecture:
    """What training builds in a test: tokens of 8 pixels, as the real one has."""
    return replace(
        tiny_architecture,
        patch=NANO.patch,
        width=32,
        decoder_mlp=32,
        decoder_heads=2,
        depth=2,
        global_blocks=(1,),
    )
