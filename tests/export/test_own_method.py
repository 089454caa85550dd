"""A method of somebody else's: a class and an entry, and every part of the export side takes it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import skimage.data
from torch import Tensor

from structsam_export import pipeline
from structsam_export.analysis.macs import encoder_macs
from structsam_export.analysis.sheet import panels
from structsam_export.choices import Reduction
from structsam_export.config import ExportConfig
from structsam_export.merging import MergePlan, Windows
from structsam_export.merging.index import count
from structsam_export.merging.matching import Matching, match
from structsam_export.merging.registry import METHODS, Entry, Option
from structsam_export.subjects import from_export, in_pytorch
from structsam_export.variants import variants
from structsam_runtime.evaluation.results import UNMERGED
from structsam_runtime.progress import Progress


@dataclass(frozen=True)
class Halves(Matching):
    """Tokens of the upper half of a window merge into the lower half."""

    rate: float
    reduction: Reduction = Reduction.MEAN

    def sources(self, windows: Windows) -> int:
        return windows.tokens // 2

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        tokens = count(windows.tokens, x.device).expand(x.shape[0] * windows.per_image, -1)
        upper, lower = tokens[:, : windows.tokens // 2], tokens[:, windows.tokens // 2 :]
        return match(windows.cut(x), upper, lower, self.removed(windows), self.reduction)


@pytest.fixture
def halves(tiny: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The method by its name, while a test runs."""
    option = Option("reduction", Reduction.MEAN, "The mean of a slot's tokens, or one of them.")
    monkeypatch.setitem(METHODS, "halves", Entry("halves", "Halves", f"{__name__}:Halves", (option,)))
    return "halves"


def test_an_own_method_is_counted_evaluated_and_drawn(halves: str, quiet: Progress) -> None:
    config = ExportConfig.of("tiny", "halves:reduction=replace", 0.4, random_weights=True, image_size=320)
    sam = pipeline.load(config)
    macs = encoder_macs(sam.image_encoder)
    assert macs.total < macs.unmerged
    chosen = variants(config, [halves], [0.4])
    assert list(chosen.values()) == ["Halves"]
    unmerged, subject = in_pytorch(config, chosen, quiet)
    assert (unmerged.name, subject.name) == (UNMERGED, "halves-r40")
    picture = skimage.data.astronaut()
    with subject.open() as predictor:
        predictor.set_image(picture)
        assert predictor.predict(box=[100, 100, 300, 300])[0].shape == (3, 512, 512)
    (group,) = panels(picture, [config], [1], None)
    assert [panel.title.partition(",")[0] for panel in group] == ["photograph", "Halves"]


@pytest.mark.export
def test_an_own_method_is_exported_verified_and_described(
    halves: str, tmp_path: Path, quiet: Progress
) -> None:
    config = ExportConfig.of("two", halves, 0.4, random_weights=True, image_size=320)
    folder = pipeline.export(config, tmp_path / config.name, None, False, quiet).folder
    said = json.loads((folder / "manifest.json").read_text())
    assert folder.name == "two-halves-r40-320px-fp32"
    assert said["merging"]["window"]["tokens_kept"] == 196 - int(0.4 * 196)
    assert {block["method"] for block in said["recipe"]["blocks"]} == {halves}
    assert said["verification"]["plans"] >= 0.999
    assert from_export(folder, "cpu").facts["label"] == "Halves"
