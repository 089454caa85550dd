"""scripts/draw_thin.py as a person calls it: the scenes that validation sees, as a dataset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from structsam_export.training.data import thin_set
from structsam_export.training.photos import Photos
from structsam_runtime.evaluation.datasets import open_dataset

RunScript = Callable[[str, str], tuple[int | str | None, str, str]]


def test_the_dataset_is_what_validation_sees(
    folder: Path,
    photos: Photos,
    tmp_path: Path,
    run_script: RunScript,
) -> None:
    """Pixel by pixel, and refused where a folder would be overwritten."""
    line = f"--data {folder} -o {tmp_path / 'thin'} --count 3 --size 96"
    code, out, _ = run_script("draw_thin", line)
    assert code == 0
    assert out.endswith("thin: 3 scenes of 96 x 96 pixels\n")
    dataset = open_dataset("thin", tmp_path / "thin")
    for scene, annotated in zip(thin_set(photos, 96, count=3), dataset, strict=True):
        assert np.array_equal(annotated.image(), scene.image)
        large = [label for label in scene.objects if (scene.labels == label).sum() >= 40]
        found = annotated.objects()
        assert len(found) == len(large)
        for one, label in zip(found, large, strict=True):
            assert np.array_equal(one.mask, scene.labels == label)
    code, _, err = run_script("draw_thin", line)
    assert code == 2
    assert "exists already" in err
