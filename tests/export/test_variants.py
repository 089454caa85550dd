"""Ways of merging: what is asked for, what tables call it, and what is refused."""

from typing import Any

import pytest

from structsam_export.choices import (
    Border,
    Destination,
    Flatness,
    Gradient,
    MethodName,
    Place,
    Reduction,
    Scope,
    Selection,
)
from structsam_export.config import ExportConfig
from structsam_export.variants import ABLATIONS, CHOICES, PAPER_NAMES, label_of, variants
from structsam_runtime import UserError

pytestmark = pytest.mark.usefixtures("tiny")
RATES = (0.35, 0.55)


def config(**changes: Any) -> ExportConfig:
    return ExportConfig("tiny", random_weights=True, image_size=320, **changes)


def test_every_method_at_every_rate_once() -> None:
    chosen = variants(config(), list(MethodName), RATES)
    assert list(chosen.values()) == [PAPER_NAMES[method] for method in MethodName for _ in RATES]
    assert [(one.method, one.rate_window, one.rate_global) for one in chosen] == [
        (method, rate, rate) for method in MethodName for rate in RATES
    ]
    assert variants(config(), [*MethodName, "tome"], [*RATES, 0.55]) == chosen


@pytest.mark.parametrize(
    ("spec", "changes", "label"),
    [
        (
            "bipartite:reduction=replace",
            {"method": MethodName.BIPARTITE, "reduction": Reduction.REPLACE},
            "StructSAM (bipartite), replace reduction",
        ),
        ("structsam:gradient=central", {"gradient": Gradient.CENTRAL}, "Central-Diff"),
        ("structsam:flatness=mean", {"flatness": Flatness.MEAN}, "Mean-Flatness"),
        ("structsam:cells=no", {"cells": False}, "No-Cell"),
        ("structsam:selection=random", {"selection": Selection.RANDOM}, "Rand-Cell"),
        ("structsam:destination=max", {"destination": Destination.MAX}, "Max-Dst"),
        ("structsam:destination=random", {"destination": Destination.RANDOM}, "Rand-Dst"),
        ("structsam:cells=yes:cell=2", {}, "StructSAM"),
        ("structsam:merge_mlp=yes", {"merge_mlp": True}, "StructSAM, MLP merged"),
        ("structsam:plan_every=2", {"plan_every": 2}, "StructSAM, one plan for 2 blocks"),
        ("structsam:skip_blocks=0,3", {"skip_blocks": (0, 3)}, "StructSAM, not in block 0 3"),
        (
            "tomesd:rate_global=0.35:destination=first",
            {"method": MethodName.TOMESD, "rate_global": 0.35, "destination": Destination.FIRST},
            "ToMeSD, first destination, 0.55 in window and 0.35 in global blocks",
        ),
        ("pitome:margin=0.5", {"method": MethodName.PITOME, "margin": 0.5}, "PiToMe, margin0.5"),
        ("structsam:rate_window=0", {"rate_window": 0.0}, "StructSAM, only in global blocks"),
        ("structsam:rate_global=0", {"rate_global": 0.0}, "StructSAM, only in window blocks"),
        (
            "structsam:flatness=variance:place=mean",
            {"flatness": Flatness.VARIANCE, "place": Place.MEAN},
            "StructSAM, variance flatness, mean place",
        ),
        (
            "bipartite:scope=window:border=zero",
            {"method": MethodName.BIPARTITE, "scope": Scope.WINDOW, "border": Border.ZERO},
            "StructSAM (bipartite), window scope, zero border",
        ),
        ("tome:proportional=yes", {"method": MethodName.TOME, "proportional": True}, "ToMe, proportional"),
        ("tome:proportional=no", {"method": MethodName.TOME}, "ToMe"),
        ("hybrid:spread=1.5", {"method": MethodName.HYBRID, "spread": 1.5}, "Hybrid (ours), spread1.5"),
    ],
)
def test_a_method_takes_its_options(spec: str, changes: dict[str, Any], label: str) -> None:
    assert variants(config(), [spec], [0.55]) == {config(**changes): label}


def test_what_the_config_merges_with_does_not_count() -> None:
    other = config(method=MethodName.PITOME, margin=0.3, rate_window=0.1, skip_blocks=(1,))
    assert variants(other, ["tome"], [0.4]) == variants(config(), ["tome"], [0.4])


def test_ablations_are_those_of_table_4() -> None:
    chosen = variants(config(), ["structsam", *ABLATIONS], [0.55])
    assert list(chosen.values()) == [
        "StructSAM", "Central-Diff", "Mean-Flatness", "No-Cell", "Rand-Cell", "Max-Dst", "Rand-Dst",
    ]  # fmt: skip


def test_choices_are_all_different_and_none_is_of_table_4() -> None:
    everything = ["structsam", *ABLATIONS, *CHOICES]
    chosen = variants(config(), everything, RATES)
    assert len(chosen) == len(RATES) * len(everything)
    labels = list(dict.fromkeys(chosen.values()))
    assert len(labels) == len(everything), "a row of a table each"


@pytest.mark.parametrize(
    ("spec", "rate", "message"),
    [
        ("nose", 0.5, "--method nose is unknown; expected one of structsam, bipartite, tome"),
        ("", 0.5, "--method  is unknown"),
        ("tome:nose=1", 0.5, "--method tome:nose=1 has no option nose; expected one of cell, channels"),
        ("tome:cell=2", 0.5, "--cell does not apply to --method tome; only to structsam"),
        ("structsam:cell=two", 0.5, "gives cell the value 'two', which it does not take"),
        ("structsam:cell", 0.5, "gives cell the value '', which it does not take"),
        ("structsam:cells=maybe", 0.5, "gives cells the value 'maybe'"),
        ("structsam:gradient=prewitt", 0.5, "gives gradient the value 'prewitt'"),
        ("structsam:skip_blocks=0,x", 0.5, "gives skip_blocks the value '0,x'"),
        ("structsam:skip_blocks=9", 0.5, "--skip-blocks 9 names a block that tiny does not have"),
        ("structsam:cell=3", 0.5, "--cell 3 does not divide"),
        ("structsam", 0.8, "the rate of window blocks is 0.8; expected 0 to 0.75"),
        ("structsam", float("nan"), "is nan; expected 0 to 0.75"),
        ("structsam", 0.0, "--rate 0 is the unmerged model, which is always evaluated; leave it out"),
    ],
)
def test_a_wrong_method_is_one_line_before_anything_is_loaded(spec: str, rate: float, message: str) -> None:
    with pytest.raises(UserError) as error:
        variants(config(), ["tome", spec], [rate])
    assert message in str(error.value)


def test_labels_of_exports_are_those_of_pytorch() -> None:
    for spec in ("structsam", "bipartite:reduction=replace", "pitome:margin=0.5:skip_blocks=1"):
        ((merged, label),) = variants(config(), [spec], [0.5]).items()
        assert label_of(merged) == label
