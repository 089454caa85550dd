"""Ways of merging: what is asked for, what tables call it, and what is refused."""

from typing import Any

import pytest

from structsam_export.config import ExportConfig
from structsam_export.merging.registry import METHODS
from structsam_export.variants import ABLATIONS, CHOICES, variants
from structsam_runtime import UserError

pytestmark = pytest.mark.usefixtures("tiny")
RATES = (0.35, 0.55)


def config(**changes: Any) -> ExportConfig:
    return ExportConfig.of(**{"arch": "tiny", "random_weights": True, "image_size": 320} | changes)


def test_every_method_at_every_rate_once() -> None:
    chosen = variants(config(), list(METHODS), RATES)
    assert list(chosen.values()) == [own.label for own in METHODS.values() for _ in RATES]
    assert list(chosen) == [config(method=method, rate=rate) for method in METHODS for rate in RATES]
    assert variants(config(), [*METHODS, "tome"], [*RATES, 0.55]) == chosen


@pytest.mark.parametrize(
    ("spec", "changes", "label"),
    [
        (
            "bipartite:reduction=replace",
            {"method": "bipartite:reduction=replace"},
            "StructSAM (bipartite), replace reduction",
        ),
        ("structsam:gradient=central", {"method": "structsam:gradient=central"}, "Central-Diff"),
        ("structsam:flatness=mean", {"method": "structsam:flatness=mean"}, "Mean-Flatness"),
        ("structsam:cells=no", {"method": "structsam:cells=no"}, "No-Cell"),
        ("structsam:selection=random", {"method": "structsam:selection=random"}, "Rand-Cell"),
        ("structsam:destination=max", {"method": "structsam:destination=max"}, "Max-Dst"),
        ("structsam:destination=random", {"method": "structsam:destination=random"}, "Rand-Dst"),
        ("structsam:cells=yes:cell=2", {}, "StructSAM"),
        ("structsam:merge_mlp=yes", {"merge_mlp": True}, "StructSAM, MLP merged"),
        ("structsam:plan_every=2", {"plan_every": 2}, "StructSAM, one plan for 2 blocks"),
        ("structsam:skip_blocks=0,3", {"skip_blocks": (0, 3)}, "StructSAM, not in block 0 3"),
        (
            "tomesd:rate_global=0.35:destination=first",
            {"method": "tomesd:destination=first", "rate_global": 0.35},
            "ToMeSD, first destination, 0.55 in window and 0.35 in global blocks",
        ),
        ("pitome:margin=0.5", {"method": "pitome:margin=0.5"}, "PiToMe, margin0.5"),
        ("structsam:rate_window=0", {"rate_window": 0.0}, "StructSAM, only in global blocks"),
        ("structsam:rate_global=0", {"rate_global": 0.0}, "StructSAM, only in window blocks"),
        (
            "structsam:flatness=variance:place=mean",
            {"method": "structsam:flatness=variance:place=mean"},
            "StructSAM, variance flatness, mean place",
        ),
        (
            "bipartite:scope=window:border=zero",
            {"method": "bipartite:scope=window:border=zero"},
            "StructSAM (bipartite), window scope, zero border",
        ),
        ("tome:proportional=yes", {"method": "tome:proportional=yes"}, "ToMe, proportional"),
        ("tome:proportional=no", {"method": "tome"}, "ToMe"),
        ("hybrid:spread=1.5", {"method": "hybrid:spread=1.5"}, "Hybrid (ours), spread1.5"),
    ],
)
def test_a_method_takes_its_options(spec: str, changes: dict[str, Any], label: str) -> None:
    assert variants(config(), [spec], [0.55]) == {config(**changes): label}


def test_what_the_config_merges_with_does_not_count() -> None:
    other = config(method="pitome:margin=0.3", rate_window=0.1, skip_blocks=(1,))
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
        ("tome:nose=1", 0.5, "--method tome has no option nose; expected one of channels, reduction"),
        ("tome:cell=2", 0.5, "--method tome has no option cell; expected one of channels"),
        ("structsam:cell=two", 0.5, "--method structsam:cell=two is not possible; expected a whole number"),
        ("structsam:cell", 0.5, "--method structsam:cell= is not possible"),
        ("structsam:cells=maybe", 0.5, "--method structsam:cells=maybe is not possible; expected yes or no"),
        (
            "structsam:gradient=prewitt",
            0.5,
            "--method structsam:gradient=prewitt is not possible; expected sobel or central",
        ),
        ("structsam:skip_blocks=0,x", 0.5, "skip_blocks does not take '0,x'"),
        ("structsam:skip_blocks=9", 0.5, "--skip-blocks 9 names a block that does not exist"),
        ("structsam:cell=3", 0.5, "a cell of 3 x 3 does not divide"),
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
        assert ExportConfig.from_json(merged.as_json()).label == label
