"""What an export is asked to be: its name, its JSON, and how every block merges."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from structsam_export import pipeline
from structsam_export.choices import Attention, DecoderLayout, Engine, Gradient, Precision, Target
from structsam_export.config import FLAGS, PATHS, ExportConfig
from structsam_export.merging import (
    ALGM,
    Adjacent,
    Bipartite,
    Hybrid,
    Identity,
    PiToMe,
    StructSAM,
    ToMe,
    ToMeSD,
    VidToMe,
    Windows,
)
from structsam_export.merging.registry import METHODS
from structsam_export.models.architectures import ARCHITECTURES
from structsam_export.models.checkpoints import build_sam
from structsam_export.recipe import Uniform
from structsam_runtime.cli.program import structsam
from structsam_runtime.errors import UserError

DRAWING = ["structsam", "bipartite", "tomesd", "vidtome", "hybrid", "adjacent"]
"""Methods that can draw destinations."""
HALF = {"precision": Precision.FP16}
EIGHT: dict[str, Any] = {
    "precision": Precision.INT8_FP16,
    "calibrate": Path("photos"),
    "int8_skip": ("blocks.0.fc2", "*.qkv", "auto"),
}
ABLATED = (
    "structsam:cell=7:channels=heads:gradient=central:scope=window:border=zero:flatness=mean:"
    "selection=random:cells=no:destination=random:reduction=replace:proportional=yes"
)

PLUGGED: dict[str, Any] = {
    "engine": Engine.TENSORRT,
    "plugins": Path("folder") / "plugins.so",
    "plugin_graph": True,
}
CHANGES: dict[str, Any] = {
    "arch": "vit_l",
    "checkpoint": Path("folder") / "sam.pth",
    "method": ABLATED,
    "rate_window": 0.3,
    "rate_global": 0.7,
    "skip_blocks": (0, 5),
    "merge_mlp": True,
    "plan_every": 3,
    "seed": 3,
    "image_size": 672,
    "dynamic_batch": True,
    "decoder_layout": DecoderLayout.META,
    "target": Target.TENSORRT11,
    "attention": Attention.MASK,
    "engine": Engine.TENSORRT_RTX,
}


PROMPTED = {"prompt_windows": 2, "rate_background": 0.75, "rate_window": 0.35, "rate_global": 0.75}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vit_b-structsam-r55-fp32"),
        (HALF, "vit_b-structsam-r55-fp16"),
        ({"precision": Precision.INT8}, "vit_b-structsam-r55-int8"),
        (EIGHT, "vit_b-structsam-r55-int8-fp16-mixed"),
        ({"precision": Precision.BF16}, "vit_b-structsam-r55-bf16"),
        ({"precision": Precision.FP8_FP16, "target": Target.RTX}, "vit_b-structsam-r55-rtx-fp8-fp16"),
        ({"arch": "vit_h", "rate_window": 0.0, "rate_global": 0.0}, "vit_h-structsam-r0-fp32"),
        ({"rate_window": 0.3}, "vit_b-structsam-r30w55g-fp32"),
        ({"rate_window": 0.125, "rate_global": 0.125}, "vit_b-structsam-r12.5-fp32"),
        ({"rate_window": 0.29, "rate_global": 0.57}, "vit_b-structsam-r29w57g-fp32"),
        ({"image_size": 512}, "vit_b-structsam-r55-512px-fp32"),
        ({"skip_blocks": (0, 5)}, "vit_b-structsam-r55-skip0-skip5-fp32"),
        ({"merge_mlp": True, "plan_every": 2}, "vit_b-structsam-r55-mlp-plan2-fp32"),
        ({"method": "structsam:cell=7", "image_size": 224}, "vit_b-structsam-r55-cell7-224px-fp32"),
        ({"method": "structsam:cells=no:channels=heads"}, "vit_b-structsam-r55-heads-channels-no-cells-fp32"),
        ({"method": "structsam:cells=yes:cell=2:gradient=sobel"}, "vit_b-structsam-r55-fp32"),
        ({"method": "vidtome", **HALF}, "vit_b-vidtome-r55-fp16"),
        (
            {"method": "vidtome:reduction=mean:destination=random"},
            "vit_b-vidtome-r55-random-destination-mean-reduction-fp32",
        ),
        ({"method": "pitome:margin=0.5"}, "vit_b-pitome-r55-margin0.5-fp32"),
        ({"method": "tome:channels=heads"}, "vit_b-tome-r55-fp32"),
        (
            {"method": "structsam:flatness=variance:place=mean:proportional=yes"},
            "vit_b-structsam-r55-variance-flatness-mean-place-proportional-fp32",
        ),
        ({"method": "structsam:proportional=no"}, "vit_b-structsam-r55-fp32"),
        ({"method": "hybrid:spread=1.5"}, "vit_b-hybrid-r55-spread1.5-fp32"),
        ({"method": "adjacent:proportional=yes"}, "vit_b-adjacent-r55-fp32"),
        (
            {"method": "adjacent:proportional=no"},
            "vit_b-adjacent-r55-no-proportional-fp32",
        ),
        ({"target": Target.CPU, "attention": Attention.WIDENED}, "vit_b-structsam-r55-fp32"),
        ({"target": Target.RTX, **HALF}, "vit_b-structsam-r55-rtx-fp16"),
        ({"target": Target.RTX, "engine": Engine.TENSORRT_RTX}, "vit_b-structsam-r55-fp32"),
        (
            {"engine": Engine.TENSORRT, "attention": Attention.WIDENED, "image_size": 512},
            "vit_b-structsam-r55-widened-attention-512px-fp32",
        ),
        (PROMPTED, "vit_b-structsam-prompt2r35-r75-fp32"),
        ({"family": "medsam"}, "vit_b-medsam-structsam-r55-fp32"),
        ({"family": "sam"}, "vit_b-structsam-r55-fp32"),
        (PROMPTED | HALF | {"rate_global": 0.5}, "vit_b-structsam-prompt2r35-r75w50g-fp16"),
    ],
)
def test_an_export_is_named_after_what_matters(changes: dict[str, Any], name: str) -> None:
    assert ExportConfig.of(**{"arch": "vit_b"} | changes).name == name


def configs_with_every_field(margin: float) -> list[ExportConfig]:
    """Every method, and configs that together change every field there is."""
    changes: list[dict[str, Any]] = [
        CHANGES,
        {"method": f"pitome:margin={margin}", "random_weights": True},
        {"method": "structsam:place=mean"},
        {"method": "hybrid:spread=1.5"},
        {"method": "adjacent:proportional=no"},
        HALF,
        PROMPTED,
        PLUGGED,
        {"family": "medsam"},
        EIGHT,
        *({"precision": precision} for precision in Precision),
    ]
    fields = {field.name for field in dataclasses.fields(ExportConfig)} - {"merging"}
    assert set().union(*changes) == {*fields, *FLAGS}
    return [ExportConfig.of("vit_b", method) for method in METHODS] + [
        ExportConfig.of(**{"arch": "vit_b"} | one) for one in changes
    ]


def test_json_gives_back_the_same_config() -> None:
    configs = configs_with_every_field(margin=0.5)
    for config in configs:
        text = json.dumps(config.as_json())
        again = ExportConfig.from_json(json.loads(text))
        assert again == config
        assert {name: type(value) for name, value in vars(again).items() if name not in PATHS} == {
            name: type(value) for name, value in vars(config).items() if name not in PATHS
        }
        assert isinstance(again.checkpoint, Path | None)
        assert isinstance(again.plugins, Path | None)
        assert again.methods() == config.methods()


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "--arch vit_b"),
        (
            {"rate_window": 0.35, "rate_global": 0.35, "engine": Engine.TENSORRT, **HALF},
            "--arch vit_b --rate 0.35 --fp16 --engine tensorrt",
        ),
        ({"rate_global": 0.7, "skip_blocks": (0, 5)}, "--arch vit_b --rate-global 0.7 --skip-blocks 0,5"),
        ({"merge_mlp": True, "plan_every": 2}, "--arch vit_b --merge-mlp --plan-every 2"),
        (
            {"target": Target.TENSORRT10, "attention": Attention.WIDENED},
            "--arch vit_b --target tensorrt10 --attention widened",
        ),
        (
            {"checkpoint": Path("my sam.pth"), "method": "structsam:cells=no"},
            "--arch vit_b --checkpoint 'my sam.pth' --method structsam:cells=no",
        ),
        ({"method": "tome:channels=heads"}, "--arch vit_b --method tome"),
        (
            {"family": "medsam", "checkpoint": Path("medsam_vit_b.pth")},
            "--arch vit_b --checkpoint medsam_vit_b.pth --family medsam",
        ),
        ({"method": "tomesd:proportional=yes"}, "--arch vit_b --method tomesd:proportional=yes"),
        ({"decoder_layout": DecoderLayout.META_SINGLE}, "--arch vit_b --decoder-layout meta-single"),
        (
            {"method": "adjacent:proportional=no"},
            "--arch vit_b --method adjacent:proportional=no",
        ),
        (
            PROMPTED,
            "--arch vit_b --prompt-aware --rate-window 0.35 --rate-global 0.75 --prompt-windows 2 "
            "--rate-background 0.75",
        ),
    ],
)
def test_a_command_has_options_that_differ_from_the_default(changes: dict[str, Any], command: str) -> None:
    assert ExportConfig.of(**{"arch": "vit_b"} | changes).command() == f"structsam export {command}"


def test_a_command_makes_the_same_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ExportConfig] = []

    def made(config: ExportConfig, *_: Any) -> None:
        asked.append(config)
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "export", made)
    configs = configs_with_every_field(margin=-0.5)
    configs += [ExportConfig.of("vit_b", **PROMPTED | {"rate_window": 0.55, "rate_global": 0.55})]
    for config in configs:
        with pytest.raises(SystemExit):
            structsam([*shlex.split(config.command())[1:], "--force", "-o", "out"])
        assert asked[-1] == config


def test_a_checkpoint_says_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without --arch asks it; without either the default stays."""
    asked: list[ExportConfig] = []

    def made(config: ExportConfig, *_: Any) -> None:
        asked.append(config)
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "export", made)
    small = dataclasses.replace(ARCHITECTURES["vit_nano"], embed_dim=96, depth=4, global_blocks=(1, 3))
    monkeypatch.setitem(ARCHITECTURES, "small", small)
    torch.save({"model": build_sam(small, 64).state_dict()}, tmp_path / "sam.pth")
    for line in ("", f"--checkpoint {tmp_path / 'sam.pth'}", "--arch vit_l --random-weights"):
        with pytest.raises(SystemExit):
            structsam(["export", *shlex.split(line)])
    assert [config.arch for config in asked] == ["vit_nano", "small", "vit_l"]


# Methods


def test_methods_are_their_own_classes_with_what_the_block_gives_them() -> None:
    """Block 3 of ViT-B, whose heads are 12: the seed and the margin are the block's."""
    expected = {
        "structsam": StructSAM(0.4, seed=8),
        "bipartite": Bipartite(0.4, heads=12, seed=8),
        "tome": ToMe(0.4, heads=12),
        "tomesd": ToMeSD(0.4, heads=12, seed=8),
        "pitome": PiToMe(0.4, margin=0.75 * 9 / 12, heads=12),
        "vidtome": VidToMe(0.4, heads=12, seed=8),
        "algm": ALGM(0.4, local=1.0, heads=12),
        "hybrid": Hybrid(0.4, heads=12, seed=8),
        "adjacent": Adjacent(0.4, heads=12, seed=8),
    }
    for method, own in expected.items():
        assert ExportConfig.of("vit_b", method=method, rate_window=0.4, seed=5).methods()[3] == own


@pytest.mark.parametrize("margin", [None, 0.9, 0.0, -0.5])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_margin_falls_from_block_to_block_to_0_behind_the_last(arch: str, margin: float | None) -> None:
    config = ExportConfig.of(arch, method="pitome" if margin is None else f"pitome:margin={margin}")
    first, depth = 0.75 if margin is None else margin, config.architecture.depth
    assert [method.margin for method in config.methods()] == pytest.approx(
        [first * (depth - index) / depth for index in range(depth)], rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize(("arch", "alone"), [("vit_b", 5), ("vit_l", 10), ("vit_h", 14)])
def test_algm_has_no_second_stage_in_the_first_five_twelfths_of_the_depth(arch: str, alone: int) -> None:
    methods = ExportConfig.of(arch, method="algm").methods()
    assert [method.local for method in methods] == [1.0] * alone + [0.5] * (len(methods) - alone)


@pytest.mark.parametrize("method", DRAWING)
def test_every_block_draws_with_a_seed_of_its_own(method: str) -> None:
    config = ExportConfig.of("vit_b", method=f"{method}:destination=random", seed=100)
    assert [merges.seed for merges in config.methods()] == list(range(100, 112))


@pytest.mark.parametrize(
    ("method", "effective"),
    [
        ("tome", 0.5),
        ("pitome", 0.5),
        ("tomesd", 2867 / 4096),
        ("vidtome", 2867 / 4096),
        ("bipartite", 2867 / 4096),
        ("algm", 2867 / 4096),
        ("hybrid", 2867 / 4096),
        ("adjacent", 2867 / 4096),
        ("structsam", 2868 / 4096),
    ],
)
def test_methods_that_halve_at_most_take_higher_rates_and_halve(method: str, effective: float) -> None:
    """Of the last block of ViT-B, a global one."""
    merges = ExportConfig.of("vit_b", method=method, rate_window=0.7, rate_global=0.7).methods()[-1]
    assert merges.rate == 0.7
    assert 1 - merges.slots(Windows(64, 64, 64)) / 4096 == effective


def test_blocks_merge_at_the_rate_of_their_kind() -> None:
    config = ExportConfig.of("vit_b", rate_window=0.3, rate_global=0.6, skip_blocks=(1, 5))
    rates = [getattr(method, "rate", None) for method in config.methods()]
    assert rates == [0.3, None, 0.6, 0.3, 0.3, None, 0.3, 0.3, 0.6, 0.3, 0.3, 0.6]


def test_windows_of_a_prompt_have_the_rate_of_window_blocks_and_all_else_the_backgrounds() -> None:
    config = ExportConfig.of("vit_b", **PROMPTED | {"rate_global": 0.6, "skip_blocks": (1,)})
    window, skipped, whole = config.methods()[:3]
    assert window == StructSAM(0.75, seed=0, prompt_windows=2, rate_prompt=0.35)
    assert skipped == Identity()
    assert whole == StructSAM(0.6, seed=2)
    unmerged = ExportConfig.of("vit_b", prompt_windows=2, rate_background=0.5, rate_window=0.0).methods()[0]
    assert unmerged == StructSAM(0.5, prompt_windows=2, rate_prompt=0.0)


def test_the_target_follows_the_engine() -> None:
    config = ExportConfig.of("vit_b")
    assert (config.written_for, config.form) == (Target.CPU, Attention.WIDENED)
    built = dataclasses.replace(config, engine=Engine.TENSORRT_RTX)
    assert (built.written_for, built.form) == (Target.RTX, Attention.MASK)
    assert dataclasses.replace(built, **HALF).form is Attention.OPERATOR
    older = dataclasses.replace(built, target=Target.TENSORRT10)
    assert (older.written_for, older.form) == (Target.TENSORRT10, Attention.MASK)
    assert built.name == config.name
    values = config.as_json()
    del values["target"], values["attention"]  # as manifests had it before there were any
    assert ExportConfig.from_json(values) == config


OLD: dict[str, Any] = {
    "arch": "vit_b", "checkpoint": None, "random_weights": True, "method": "structsam", "rate_window": 0.35,
    "rate_global": 0.7, "skip_blocks": [0], "merge_mlp": False, "plan_every": 2, "cell": 2,
    "channels": "heads", "gradient": "sobel", "scope": "map", "border": "replicate", "flatness": "max",
    "selection": "flatness",
    "cells": True, "spread": None, "destination": "min", "place": "destination", "reduction": "mean",
    "proportional": False, "margin": None, "seed": 0, "image_size": 512, "fp16": True, "dynamic_batch": False,
    "target": None, "attention": None, "engine": "tensorrt-rtx", "plugins": None,
}  # fmt: skip
"""Arguments as manifests had them while every option of a method was an argument."""


def test_an_older_manifest_is_read() -> None:
    config = ExportConfig.from_json(OLD)
    assert config == ExportConfig.of(
        "vit_b", "structsam:channels=heads", rate_window=0.35, rate_global=0.7, skip_blocks=(0,),
        plan_every=2, random_weights=True, image_size=512, engine=Engine.TENSORRT_RTX, **HALF,
    )  # fmt: skip
    for name in ("plan_every", "target", "attention", "plugins"):  # which came later still
        older = {key: value for key, value in OLD.items() if key != name}
        assert ExportConfig.from_json(older).arch == "vit_b"
    tome = ExportConfig.from_json(
        OLD
        | {"method": "tome"}
        | dict.fromkeys(
            ("cell", "gradient", "scope", "border", "flatness", "selection", "cells", "destination", "place")
        )
    )
    assert tome.merging == Uniform.from_json(
        {"method": "tome", "rate_window": 0.35, "rate_global": 0.7, "skip_blocks": [0], "plan_every": 2}
    )


@pytest.mark.parametrize("values", [OLD, ExportConfig.of("vit_b").as_json()])
def test_arguments_of_another_version_are_named(values: dict[str, Any]) -> None:
    message = "the export has arguments unknown to this version: hue, saturation; export again"
    with pytest.raises(UserError, match=message):
        ExportConfig.from_json(values | {"hue": 1, "saturation": None})


def test_window_blocks_keep_their_rate_where_one_window_covers_the_map() -> None:
    config = ExportConfig.of("vit_b", rate_window=0.3, rate_global=0.6, image_size=160)
    rates = [getattr(method, "rate", None) for method in config.methods()]
    assert rates == [0.6 if index in (2, 5, 8, 11) else 0.3 for index in range(12)]


def test_rate_0_merges_nothing() -> None:
    config = ExportConfig.of("vit_b", rate_window=0.0, rate_global=0.0)
    assert config.methods() == [Identity()] * 12


def test_arguments_reach_the_method() -> None:
    method = ExportConfig.of(**CHANGES | {"skip_blocks": ()}).methods()[4]
    assert (method.rate, method.cell, method.heads, method.seed) == (0.3, 7, 16, 7)
    assert method.gradient is Gradient.CENTRAL


@pytest.mark.parametrize("image_size", [64, 160, 224, 512, 1024, 4096])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_valid_sizes_are_accepted(arch: str, image_size: int) -> None:
    assert ExportConfig.of(arch, image_size=image_size).image_size == image_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vit_x"}, "--arch vit_x is unknown; expected one of vit_nano, vit_b, vit_l, vit_h"),
        ({"image_size": 100}, "--image-size 100 is not a multiple of 16"),
        ({"image_size": 48}, "--image-size 48 is not a multiple of 16 from 64"),
        ({"image_size": -1024}, "--image-size -1024 is not"),
        (
            {"method": "structsam:cell=3"},
            "feature map of 64 x 64; expected cell=2",
        ),
        (
            {"method": "structsam:cell=0"},
            "--method structsam:cell=0 is not possible; expected a whole",
        ),
        ({"method": "structsam:cell=-2"}, "--method structsam:cell=-2 is not possible"),
        (
            {"method": "structsam:cell=7"},
            "a cell of 7 x 7 does not divide both the window of 14 x 14",
        ),
        ({"rate_window": 0.76}, "the rate of window blocks is 0.76; expected 0 to 0.75"),
        ({"rate_global": -0.1}, "the rate of global blocks is -0.1; expected 0 to 0.75"),
        ({"rate_global": float("nan")}, "the rate of global blocks is nan"),
        (
            {"method": "tome", "rate_global": 0.8},
            "the rate of global blocks is 0.8; expected 0 to 0.75",
        ),
        ({"method": "tomesd:cell=3"}, "a cell of 3 x 3 does not divide both"),
        (
            {"method": "structsam:place=mean:cells=no"},
            "is not possible: place=mean needs cells, and cells=no has none",
        ),
        (
            HALF | {"method": "structsam:cells=no"},
            "sorts all tokens, and fp16 changes that order",
        ),
        ({"checkpoint": Path("sam.pth"), "random_weights": True}, "exclude each other; give one of them"),
        ({"seed": -1}, "--seed -1 is negative; expected 0 or more"),
        (
            {"method": "tome", "rate_window": 0.8},
            "the rate of window blocks is 0.8; expected 0 to 0.75, the limit of all methods",
        ),
        ({"skip_blocks": (3, 12)}, "--skip-blocks 3,12 names a block that does not exist"),
        ({"plan_every": 0}, "--plan-every 0 is too small; expected 1 or more"),
        (
            {"attention": Attention.OPERATOR},
            "--attention operator needs ONNX opset 23, and --target cpu has 20; "
            "expected --target tensorrt11 or rtx",
        ),
        (
            {"attention": Attention.OPERATOR, "engine": Engine.TENSORRT_RTX},
            "engines with --attention operator need fp16; add --fp16 or leave --attention out",
        ),
        (
            {"attention": Attention.GATHER, "method": "structsam:place=mean"},
            "--attention gather does not support place=mean",
        ),
        ({"skip_blocks": (-1,)}, "expected numbers from 0 to 11"),
        (
            PROMPTED | {"method": "tome"},
            "--prompt-aware is not supported by --method tome; leave one of them out",
        ),
        (
            PROMPTED | {"method": "structsam:cells=no"},
            "not supported by --method structsam:cells=no; leave one of them out",
        ),
        (PROMPTED | {"rate_background": 0.8}, "the rate of windows without a prompt is 0.8; expected 0 to"),
        (PROMPTED | {"prompt_windows": 25}, "is 25, and --image-size 1024 has 25 windows; expected 1 to 24"),
        (PROMPTED | {"prompt_windows": -1}, "is -1, and --image-size 1024 has 25 windows"),
        (PROMPTED | {"prompt_windows": 0}, "is 0, and --image-size 1024 has 25 windows"),
        (PROMPTED | {"rate_background": None}, "prompt_windows is 2 without rate_background; give both"),
        (PROMPTED | {"image_size": 224}, "--image-size 224 has only one; expected more than 224"),
    ],
)
def test_invalid_values_are_refused_with_the_expected_ones(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        ExportConfig.of(**{"arch": "vit_b"} | changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("cell", "image_size"), [(2, 336), (7, 1024), (14, 1024)])
def test_a_refused_cell_is_not_offered(cell: int, image_size: int) -> None:
    """And what is offered would be taken."""
    with pytest.raises(UserError) as refused:
        ExportConfig.of("vit_b", f"structsam:cell={cell}", image_size=image_size)
    offered = str(refused.value).partition("expected ")[2].removeprefix("cell=").split(" or ")
    assert str(cell) not in offered
    for value in offered:
        if value.isdigit():
            assert ExportConfig.of("vit_b", f"structsam:cell={value}", image_size=image_size).methods()[
                0
            ].cell == int(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"int8_skip": ("blocks.12.fc2",)},
            "--int8-skip blocks.12.fc2 fits no layer; expected auto, or names",
        ),
        ({"int8_skip": ("*.fc1", "fc2")}, "--int8-skip fc2 fits no layer"),
        ({"precision": Precision.FP16, "int8_skip": ("auto",)}, "--int8-skip is for int8 and fp8, not fp16"),
        (
            {"precision": Precision.FP32, "calibrate": Path("photos")},
            "--calibrate is for int8 and fp8, not fp32",
        ),
        ({"method": "structsam:cells=no"}, "sorts all tokens, and int8 changes that order"),
    ],
)
def test_what_8_bits_cannot_be_asked_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ExportConfig.of(**{"arch": "vit_b", "precision": Precision.INT8} | changes)


@pytest.mark.parametrize("precision", Precision)
def test_an_operator_needs_half_precision_around_8_bits_too(precision: Precision) -> None:
    """TensorRT has no kernels for Attention in fp32."""
    config = ExportConfig.of("vit_b", precision=precision, target=Target.RTX)
    assert (config.form is Attention.OPERATOR) == (precision.around is not Precision.FP32)


def test_every_precision_is_made_of_others_or_of_itself() -> None:
    """And flags name it in an export's own command, if it has them."""
    assert {one: one.around for one in Precision} == {
        **dict.fromkeys([Precision.FP32, Precision.INT8, Precision.FP8], Precision.FP32),
        **dict.fromkeys([Precision.FP16, Precision.INT8_FP16, Precision.FP8_FP16], Precision.FP16),
        Precision.BF16: Precision.BF16,
    }
    assert [one for one in Precision if one.quantized] == list(Precision)[3:]
    assert [one for one in Precision if one.decoder is not one.around] == [Precision.BF16]
    words = {one: ExportConfig.of("vit_b", precision=one).command().split()[4:] for one in Precision}
    assert {one: " ".join(told) for one, told in words.items()} == {
        Precision.FP32: "",
        Precision.FP16: "--fp16",
        Precision.BF16: "--precision bf16",
        Precision.INT8: "--int8",
        Precision.INT8_FP16: "--fp16 --int8",
        Precision.FP8: "--precision fp8",
        Precision.FP8_FP16: "--precision fp8-fp16",
    }


@pytest.mark.parametrize("target", Target)
def test_bf16_is_written_in_an_opset_that_has_it(target: Target) -> None:
    """Conv takes it from 22 on; TensorRT 10.3, which reads up to 20, is another target's."""
    asked: dict[str, Any] = {"precision": Precision.BF16, "target": target}
    if target is Target.TENSORRT10:
        told = "bf16 needs ONNX opset 23, and --target tensorrt10 has 20; expected --target cpu or cuda or "
        with pytest.raises(UserError, match=f"^{told}tensorrt11 or rtx$"):
            ExportConfig.of("vit_b", **asked)
        return
    config = ExportConfig.of("vit_b", **asked)
    assert (config.dialect.opset, config.dialect.tensorrt) == (23, "10.14")
    assert config.form is ExportConfig.of("vit_b", precision=Precision.FP16, target=target).form


def test_plugins_have_no_kernels_for_bf16() -> None:
    with pytest.raises(UserError, match=r"^--plugin-graph has no kernels for bf16; leave one of them out$"):
        ExportConfig.of("vit_b", precision=Precision.BF16, plugin_graph=True)
