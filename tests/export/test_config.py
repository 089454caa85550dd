"""What an export is asked to be: its name, its JSON, and how every block merges."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from structsam_export.architectures import ARCHITECTURES
from structsam_export.choices import (
    Channels,
    Destination,
    Engine,
    Flatness,
    Gradient,
    MethodName,
    Selection,
)
from structsam_export.config import ExportConfig
from structsam_export.merging import Identity, StructSAM
from structsam_runtime.errors import UserError

CHANGES: dict[str, Any] = {
    "arch": "vit_l",
    "checkpoint": Path("folder") / "sam.pth",
    "random_weights": True,
    "method": MethodName.STRUCTSAM,
    "rate_window": 0.3,
    "rate_global": 0.7,
    "skip_blocks": (0, 5),
    "cell": 7,
    "gradient": Gradient.CENTRAL,
    "channels": Channels.HEADS,
    "flatness": Flatness.MEAN,
    "selection": Selection.RANDOM,
    "cells": False,
    "destination": Destination.RANDOM,
    "seed": 3,
    "image_size": 672,
    "fp16": True,
    "dynamic_batch": True,
    "engine": Engine.TENSORRT_RTX,
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vit_b-structsam-r55-fp32"),
        ({"fp16": True}, "vit_b-structsam-r55-fp16"),
        ({"arch": "vit_h", "rate_window": 0.0, "rate_global": 0.0}, "vit_h-structsam-r0-fp32"),
        ({"rate_window": 0.3}, "vit_b-structsam-r30w55g-fp32"),
        ({"rate_window": 0.125, "rate_global": 0.125}, "vit_b-structsam-r12.5-fp32"),
        ({"rate_window": 0.29, "rate_global": 0.57}, "vit_b-structsam-r29w57g-fp32"),
    ],
)
def test_an_export_is_named_after_what_matters(changes: dict[str, Any], name: str) -> None:
    assert ExportConfig(**{"arch": "vit_b"} | changes).name == name


def test_json_gives_back_the_same_config() -> None:
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(ExportConfig)}
    for config in (ExportConfig("vit_b"), ExportConfig(**CHANGES)):
        text = json.dumps(config.as_json())
        again = ExportConfig.from_json(json.loads(text))
        assert again == config
        assert {name: type(value) for name, value in vars(again).items() if name != "checkpoint"} == {
            name: type(value) for name, value in vars(config).items() if name != "checkpoint"
        }
        assert isinstance(again.checkpoint, Path | None)


def test_blocks_merge_at_the_rate_of_their_kind() -> None:
    config = ExportConfig("vit_b", rate_window=0.3, rate_global=0.6, skip_blocks=(1, 5))
    rates = [getattr(method, "rate", None) for method in config.methods()]
    assert rates == [0.3, None, 0.6, 0.3, 0.3, None, 0.3, 0.3, 0.6, 0.3, 0.3, 0.6]


def test_window_blocks_keep_their_rate_where_one_window_covers_the_map() -> None:
    config = ExportConfig("vit_b", rate_window=0.3, rate_global=0.6, image_size=160)
    rates = [getattr(method, "rate", None) for method in config.methods()]
    assert rates == [0.6 if index in (2, 5, 8, 11) else 0.3 for index in range(12)]


def test_rate_0_merges_nothing() -> None:
    config = ExportConfig("vit_b", rate_window=0.0, rate_global=0.0)
    assert config.methods() == [Identity()] * 12


def test_arguments_reach_the_method() -> None:
    method = ExportConfig(**CHANGES | {"skip_blocks": ()}).methods()[4]
    assert method == StructSAM(
        rate=0.3,
        cell=7,
        gradient=Gradient.CENTRAL,
        flatness=Flatness.MEAN,
        selection=Selection.RANDOM,
        cells=False,
        destination=Destination.RANDOM,
        heads=16,
        seed=7,
    )


@pytest.mark.parametrize("image_size", [64, 160, 224, 512, 1024, 4096])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_good_sizes_are_taken(arch: str, image_size: int) -> None:
    assert ExportConfig(arch, image_size=image_size).image_size == image_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vit_x"}, "--arch vit_x is unknown; expected one of vit_b, vit_l, vit_h"),
        ({"image_size": 100}, "--image-size 100 is not a multiple of 16"),
        ({"image_size": 48}, "--image-size 48 is not a multiple of 16 from 64"),
        ({"image_size": -1024}, "--image-size -1024 is not"),
        (
            {"cell": 3},
            "feature map of 64 x 64; expected 2",
        ),
        ({"cell": 0}, "--cell 0 does not divide"),
        ({"cell": 1}, "--cell 1 does not divide"),
        ({"cell": -2}, "--cell -2 does not divide"),
        ({"cell": 7}, "--cell 7 does not divide both"),
        ({"rate_window": 0.76}, "the rate of window blocks is 0.76; expected 0 to 0.75"),
        ({"rate_global": -0.1}, "the rate of global blocks is -0.1; expected 0 to 0.75"),
        ({"rate_global": float("nan")}, "the rate of global blocks is nan"),
        ({"skip_blocks": (3, 12)}, "--skip-blocks 3,12 names a block that vit_b does not have"),
        ({"skip_blocks": (-1,)}, "expected numbers from 0 to 11"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportConfig(**{"arch": "vit_b"} | changes)


@pytest.mark.parametrize(("cell", "image_size"), [(2, 336), (7, 1024), (14, 1024)])
def test_a_refused_cell_is_not_among_those_that_are_offered(cell: int, image_size: int) -> None:
    """And what is offered would be taken."""
    with pytest.raises(UserError) as refused:
        ExportConfig("vit_b", cell=cell, image_size=image_size)
    offered = str(refused.value).partition("expected ")[2]
    for value in range(2, 15):
        if str(value) in offered.replace(";", " ").replace(",", " ").split():
            assert ExportConfig("vit_b", cell=value, image_size=image_size).cell == value
