"""Models to evaluate: every way of merging in PyTorch and exports, through one predictor."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray

from structsam_export import pipeline
from structsam_export.analysis.macs import encoder_macs
from structsam_export.config import ExportConfig
from structsam_export.description import merging, model_of
from structsam_export.encoder import apply
from structsam_export.encoder.patch import merged_blocks
from structsam_export.encoder.walk import embed
from structsam_export.merging.registry import METHODS
from structsam_export.models.checkpoints import load_sam
from structsam_export.subjects import Subject, described, from_export, in_pytorch, of_exports
from structsam_export.variants import ABLATIONS, variants
from structsam_runtime import Manifest, UserError
from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.evaluation.datasets import Annotated, Object
from structsam_runtime.evaluation.metrics import iou
from structsam_runtime.evaluation.report import summarize
from structsam_runtime.evaluation.results import UNMERGED, FoundObjects, Results
from structsam_runtime.evaluation.run import evaluate
from structsam_runtime.predict.image import prepare
from structsam_runtime.progress import Progress

SIZE = 320  # 20 x 20 tokens: windows of 14 x 14 are padded
RATES = (0.35, 0.55)
BOX = (100, 80, 400, 360)

pytestmark = [pytest.mark.usefixtures("tiny"), pytest.mark.xdist_group("subjects")]


def config(**changes: Any) -> ExportConfig:
    return ExportConfig.of(**{"arch": "tiny", "random_weights": True, "image_size": SIZE} | changes)


@pytest.fixture(scope="module")
def subjects(tiny: str, quiet: Progress) -> dict[str, Subject]:
    """All methods at two rates, and StructSAM's ablations, by name."""
    chosen = variants(config(), [*METHODS, *ABLATIONS], RATES)
    return {one.name: one for one in in_pytorch(config(), chosen, quiet)}


# In PyTorch


def test_every_config_has_a_distinct_name(quiet: Progress) -> None:
    """Results go by the name: two configs of one name would share a file."""
    specs = [
        "structsam", "structsam:skip_blocks=0", "structsam:skip_blocks=0,1", "structsam:rate_global=0.1",
        "structsam:rate_window=0.1", "structsam:channels=heads", "bipartite", "bipartite:reduction=replace",
        "pitome", "pitome:margin=0.5", "tomesd:destination=first",
    ]  # fmt: skip
    small = config(image_size=64)
    chosen = variants(small, specs, [0.5])
    names = [one.name for one in in_pytorch(small, chosen, quiet)]
    assert len(set(names)) == len(names) == len(specs) + 1
    assert names[:4] == [
        UNMERGED,
        "structsam-r50",
        "structsam-r50-skip0",
        "structsam-r50-skip0-skip1",
    ]


@pytest.mark.export
def test_facts_are_what_the_manifest_of_an_export_would_say(subjects: dict[str, Subject]) -> None:
    sam = load_sam("tiny", SIZE, None, random_weights=True)
    assert next(iter(subjects)) == UNMERGED
    assert subjects[UNMERGED].facts == {
        "label": "Baseline", "rate": 0.0, "effective_window": 0.0, "effective_global": 0.0,
        "gmac": pytest.approx(0.44, abs=0.01), "runner": "pytorch",
    }  # fmt: skip
    for merged, label in variants(config(), [*METHODS, *ABLATIONS], RATES).items():
        apply(sam.image_encoder, merged.methods())
        kinds = merging(sam.image_encoder)
        (facts,) = [
            one.facts
            for one in subjects.values()
            if (one.facts["label"], one.facts["rate"]) == (label, merged.rate)
        ]
        assert facts["gmac"] == round(encoder_macs(sam.image_encoder).total / 1e9, 2)
        assert facts["effective_window"] == kinds["window"]["effective_rate"]
        assert facts["effective_global"] == kinds["global"]["effective_rate"]
        json.dumps(facts)  # nothing that a file could not hold


def test_capped_methods_have_their_effective_rate(subjects: dict[str, Subject]) -> None:
    for name in ("tome-r55", "pitome-r55"):
        facts = subjects[name].facts
        assert (facts["rate"], facts["effective_window"], facts["effective_global"]) == (0.55, 0.5, 0.5)


def test_the_unmerged_model_is_metas_own_to_the_last_bit(subjects: dict[str, Subject]) -> None:
    photo = skimage.data.coffee()
    sam = load_sam("tiny", SIZE, None, random_weights=True)
    tensor, _ = prepare(photo, model_of(config(), sam))
    with torch.no_grad():
        expected = sam.image_encoder(torch.from_numpy(tensor)).numpy()
    with subjects[UNMERGED].open() as predictor:
        predictor.set_image(photo)
        assert np.array_equal(predictor.get_image_embedding(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_merging_is_that_of_the_method_and_gone_afterwards(subjects: dict[str, Subject], method: str) -> None:
    photo = skimage.data.coffee()
    merged = config(method=method)
    sam = pipeline.load(merged)
    tensor, _ = prepare(photo, model_of(merged, sam))
    with torch.no_grad():
        expected = sam.image_encoder(torch.from_numpy(tensor)).numpy()

    def embedding(name: str) -> NDArray[np.float32]:
        with subjects[name].open() as predictor:
            predictor.set_image(photo)
            return predictor.get_image_embedding()

    before = embedding(UNMERGED)
    for _ in range(2):
        assert np.array_equal(embedding(f"{method}-r55"), expected)
    assert np.array_equal(embedding(UNMERGED), before)
    assert not np.array_equal(before, expected)


def test_blocks_that_follow_another_ones_plans_are_evaluated(quiet: Progress) -> None:
    photo, merged = skimage.data.coffee(), config(plan_every=2)
    sam = pipeline.load(merged)
    tensor, _ = prepare(photo, model_of(merged, sam))
    with torch.no_grad():
        expected, _ = embed(sam.image_encoder, torch.from_numpy(tensor))
    (_, subject) = in_pytorch(config(), {merged: "one plan for two"}, quiet)
    with subject.open() as predictor:
        predictor.set_image(photo)
        assert np.array_equal(predictor.get_image_embedding(), expected.numpy())


def test_merging_is_gone_after_an_error_too(subjects: dict[str, Subject]) -> None:
    kept: list[Any] = []

    def fail() -> None:
        with subjects["tome-r55"].open() as predictor:
            kept.append(predictor.encoder.module.encoder)  # type: ignore[attr-defined]
            assert len(merged_blocks(kept[0])) == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert merged_blocks(kept[0]) == []


# Pictures and masks that are easy to get wrong


@dataclass(frozen=True, kw_only=True)
class Drawn(Annotated):
    """A picture in memory."""

    picture: Path = Path("none.png")
    pixels: NDArray[np.uint8]
    drawn: tuple[Object, ...]

    def image(self) -> NDArray[np.uint8]:
        return self.pixels

    def _decode(self) -> list[Object]:
        return list(self.drawn)


def degenerate() -> list[Drawn]:
    """Black, constant, white and striped pictures of odd shapes, with the smallest and the largest masks."""
    height, width = 61, 97

    def mask(rows: slice, columns: slice) -> Object:
        drawn = np.zeros((height, width), np.bool_)
        drawn[rows, columns] = True
        return Object(drawn)

    whole = slice(None)
    objects = (
        mask(slice(0, 1), slice(0, 1)),
        mask(slice(height - 1, None), slice(width - 1, None)),
        mask(slice(30, 31), slice(40, 41)),
        mask(slice(0, 0), whole),  # empty
        mask(slice(0, 5), whole),  # along the border
        mask(whole, slice(90, None)),
        mask(whole, whole),
    )
    pixels = np.zeros((height, width, 3), np.uint8)
    stripes = pixels + 255 * (np.arange(width) // 8 % 2)[:, None].astype(np.uint8)
    pictures = {"black": pixels, "grey": pixels + 127, "white": pixels + 255, "stripes": stripes}
    drawn = [Drawn(name=name, pixels=made, drawn=objects) for name, made in pictures.items()]
    return [
        *drawn,
        Drawn(name="bare", pixels=pixels, drawn=()),
        Drawn(name="empty", pixels=pixels, drawn=objects[3:4]),
    ]


@pytest.mark.export
def test_degenerate_pictures_and_masks_give_defined_results_for_all_methods(
    subjects: dict[str, Subject], tmp_path: Path
) -> None:
    results, pictures = Results(tmp_path / "one"), degenerate()
    what = described(config(), pipeline.weights_source(config()))
    results.begin([one.name for one in pictures], what, {name: one.facts for name, one in subjects.items()})
    for name, subject in subjects.items():
        with subject.open() as predictor:
            for found in evaluate(name, predictor, pictures, results):
                assert len(found.objects) == (0 if found.picture in ("bare", "empty") else 6)
                check_defined(found)
    summaries = summarize(results)
    assert [one.model for one in summaries] == list(subjects)
    for one in summaries:
        assert (one.counts.pictures, one.counts.prompts, one.counts.bare, one.counts.empty) == (4, 24, 2, 5)
        for values in (*one.quality.values(), *one.change.values()):
            assert np.isfinite([values.mean, values.low, values.high]).all()
        assert 0 <= one.ap.ap <= 1


def check_defined(found: FoundObjects) -> None:
    assert all(np.isfinite(one.score) for one in found.objects)
    for one in found.objects:
        for value in (one.iou, one.boundary_iou, one.dice, one.agreement):
            assert 0 <= value <= 1


# Exports

Exported = Callable[..., Path]


def two() -> ExportConfig:
    """What `exported()` is made from."""
    return config(arch="two")


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def changed(folder: Path, to: Path, **changes: dict[str, Any]) -> Path:
    """A copy of an export that says something else of itself."""
    shutil.copytree(folder, to)
    said = content(folder)
    for key, values in changes.items():
        said[key] |= values
    (to / "manifest.json").write_text(json.dumps(said))
    return to


@pytest.mark.export
def test_inputs_and_outputs_are_those_of_an_export(exported: Exported) -> None:
    said, model = content(exported()), Manifest.read(exported()).model
    for part, (inputs, outputs) in (("encoder", encoder_specs(model)), ("decoder", decoder_specs(model))):
        for side, specs in (("inputs", inputs), ("outputs", outputs)):
            listed = [
                {"name": name, "dtype": str(spec.dtype), "shape": list(spec.shape)}
                for name, spec in specs.items()
            ]
            assert listed == said[part][side]


@pytest.mark.export
def test_an_export_has_the_facts_and_masks_of_its_model_in_pytorch(
    exported: Exported, quiet: Progress
) -> None:
    folder = exported()
    made = from_export(folder, "cpu")
    chosen = variants(two(), ["structsam"], [0.55])
    *_, merged = in_pytorch(two(), chosen, quiet)
    assert made.name == f"{folder.name}-cpu"
    assert made.facts == {**merged.facts, "runner": "cpu fp32"}
    photo = skimage.data.astronaut()
    masks = []
    for subject in (made, merged, made):  # a runner can be opened again
        with subject.open() as predictor:
            predictor.set_image(photo)
            masks.append(predictor.predict(box=BOX, multimask_output=False)[0][0])
    assert np.array_equal(masks[0], masks[2])
    assert iou(masks[0], masks[1]) > 0.99


@pytest.mark.export
def test_exports_are_compared_with_the_first_that_merges_nothing(
    exported: Exported, tmp_path: Path, quiet: Progress
) -> None:
    merged, unmerged = exported(), exported(rate=0.0)
    again = tmp_path / "again"
    shutil.copytree(unmerged, again)
    what, made = of_exports([merged, unmerged, again], "cpu", None, quiet)
    assert [one.name for one in made] == [UNMERGED, f"{merged.name}-cpu", "again-cpu"]
    assert [one.facts["label"] for one in made] == ["Baseline", "StructSAM", "Baseline"]
    assert {one.facts["runner"] for one in made} == {"cpu fp32"}
    assert what == {"arch": "two", "image_size": SIZE, "weights": "random, seed 0"}
    with pytest.raises(UserError, match="no weights are read; leave --checkpoint out"):
        of_exports([merged, unmerged], "cpu", tmp_path / "mine.pth", quiet)


@pytest.mark.export
def test_exports_that_all_merge_are_compared_with_pytorch(exported: Exported, quiet: Progress) -> None:
    merged = exported()
    what, made = of_exports([merged], "cpu", None, quiet)
    assert [one.name for one in made] == [UNMERGED, f"{merged.name}-cpu"]
    assert [one.facts["runner"] for one in made] == ["pytorch", "cpu fp32"]
    assert what == described(two(), pipeline.weights_source(two()))


@pytest.mark.export
def test_usage_errors_with_exports_are_one_line(exported: Exported, tmp_path: Path, quiet: Progress) -> None:
    good = exported()
    weights = changed(good, tmp_path / "a", weights={"source": "mine.pth"})
    size = changed(good, tmp_path / "b", arguments={"image_size": 448})
    hashed = changed(good, tmp_path / "c", weights={"sha256": "0" * 64})
    (tmp_path / "none").mkdir()
    (tmp_path / "twin").mkdir()
    twin = changed(good, tmp_path / "twin" / good.name)
    mistakes = [
        ([good, weights], "cpu", "the exports differ in weights or image size"),
        ([good, size], "cpu", "the exports differ in weights or image size"),
        ([good, good], "cpu", "two exports have the same name"),
        ([good, twin], "cpu", "two exports have the same name"),
        ([tmp_path / "none"], "cpu", "no manifest.json in"),
        ([good], "gpu", "runner 'gpu' is unknown, expected one of cpu, openvino, cuda"),
        ([good], "cuda", "provider 'cuda' is not in this ONNX Runtime, which offers cpu"),
        ([hashed], "cpu", "another hash; give that file with --checkpoint"),
    ]
    for folders, runner, message in mistakes:
        with pytest.raises(UserError) as error:
            of_exports(folders, runner, None, quiet)
        assert message in str(error.value)
    (weights / "encoder.onnx").write_bytes(b"short")
    with pytest.raises(UserError, match=r"encoder\.onnx has 5 bytes"):
        of_exports([weights], "cpu", None, quiet)


@pytest.mark.export
def test_weights_that_moved_are_found_with_the_option(
    exported: Exported, tmp_path: Path, quiet: Progress
) -> None:
    sam = load_sam("two", SIZE, None, random_weights=True)
    torch.save(sam.state_dict(), tmp_path / "mine.pth")
    sha256 = pipeline.weights_source(replace(two(), random_weights=False, checkpoint=tmp_path / "mine.pth"))
    export = changed(
        exported(),
        tmp_path / "out",
        arguments={"random_weights": False, "checkpoint": str(tmp_path / "gone.pth")},
        weights=sha256,
    )
    with pytest.raises(UserError, match=r"no checkpoint at .*gone\.pth"):
        of_exports([export], "cpu", None, quiet)
    what, made = of_exports([export], "cpu", tmp_path / "mine.pth", quiet)
    assert what["weights"] == f"mine.pth {sha256['sha256'][:12]}"
    assert len(made) == 2


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"source": "sam.pth", "sha256": "0123456789abcdef"}, "sam.pth 0123456789ab"),
        ({"source": "random, seed 3", "sha256": None}, "random, seed 3"),
    ],
)
def test_weights_are_identified_by_name_and_hash(weights: dict[str, str | None], told: str) -> None:
    what = {"arch": "two", "image_size": SIZE, "weights": told}
    assert described(two(), weights) == what
    assert described(config(arch="two", family="medsam"), weights) == what | {"family": "medsam"}
