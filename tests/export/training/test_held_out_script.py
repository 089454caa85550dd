"""scripts/held_out.py as a person calls it: what validation asks for, as datasets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from structsam_export.training.photos import read_data
from structsam_export.training.validate import DRAWN, held_out
from structsam_runtime.evaluation.datasets import open_dataset

RunScript = Callable[[str, str], tuple[int | str | None, str, str]]


def test_the_datasets_are_what_validation_asks_for(data: Path, tmp_path: Path, run_script: RunScript) -> None:
    """Pixel by pixel, and refused where a folder would be overwritten."""
    line = f"--data {data} -o {tmp_path / 'held-out'} --scenes 2"
    code, out, _ = run_script("held_out", line)
    assert code == 0
    assert out.endswith("drawn: 2 pictures\n")
    asked = held_out(read_data(data), 512, scenes=2)
    sources = {
        "photographs": ["coco-train", "coco_minis"],
        "salient": ["duts_tr"],
        "thin": ["powerlines_pld"],
        "drawn": [DRAWN],
    }
    for split, names in sources.items():
        examples = [one for name in names for one in asked[name]]
        if split == "salient":
            assert not examples  # too small
            continue
        dataset = open_dataset("held-out", tmp_path / "held-out", split)
        assert len(dataset) == len(examples) > 0
        for example, annotated in zip(examples, dataset, strict=True):
            assert np.array_equal(annotated.image(), example.image)
            found = {(one.area, one.box) for one in annotated.objects()}
            masks = [example.labels == label for label in example.objects]
            assert found == {(int(mask.sum()), _box(mask)) for mask in masks}
    code, _, err = run_script("held_out", line)
    assert code == 2
    assert "exists already" in err


def _box(mask: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())
