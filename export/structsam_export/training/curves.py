"""How a training run went, as a picture."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from structsam_runtime.files import whole_file


def plot(curves: Path, picture: Path) -> None:
    """Draw the loss and the scores over the steps.

    Args:
        curves: one JSON object a line, as `loop.train` writes them.
        picture: .png or another format that matplotlib knows.
    """
    from matplotlib.figure import Figure  # half a second, and only wanted now and then

    records = [json.loads(line) for line in curves.read_text().splitlines()]
    training = [record for record in records if "loss" in record]
    validations = [record for record in records if "validation" in record]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([x["step"] for x in training], [x["loss"] for x in training], linewidth=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    for key, label in (("box_iou", "training, box"), ("point_iou", "training, points")):
        right.plot([x["step"] for x in training], [x[key] for x in training], label=label, linewidth=0.7)
    for key, label in (("photos", "held-out photographs, box"), ("thin", "thin objects, box")):
        scores = [x["validation"][key] for x in validations]
        right.plot([x["step"] for x in validations], scores, label=label, marker=".")
    right.set(xlabel="step", ylabel="mean IoU", ylim=(0, 1))
    right.legend(fontsize="small")
    for before, after in itertools.pairwise(training):
        if before["size"] != after["size"]:
            for axes in (left, right):
                axes.axvline(after["step"], color="grey", linestyle=":", linewidth=1)
                axes.annotate(
                    f" {after['size']} px", (after["step"], 0.02), xycoords=("data", "axes fraction")
                )
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with whole_file(picture) as part:
        figure.savefig(part, dpi=120)
