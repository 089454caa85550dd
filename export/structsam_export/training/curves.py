"""How a training run went, as a picture."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from structsam_runtime.files import whole_file


def plot(curves: Path, picture: Path) -> None:
    """Draw the loss over the steps, and the scores of each source by box and by click.

    Args:
        curves: one JSON object a line, as `loop.train` writes them.
        picture: .png or another format that matplotlib knows.
    """
    from matplotlib.figure import Figure  # half a second, and only wanted now and then

    records = [json.loads(line) for line in curves.read_text().splitlines()]
    training = [record for record in records if "loss" in record]
    validations = [record for record in records if "validation" in record]
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, *scores = figure.subplots(1, 3)
    losses.plot([x["step"] for x in training], [x["loss"] for x in training], linewidth=1)
    losses.set(xlabel="step", ylabel="training loss", yscale="log")
    sources = dict.fromkeys(source for x in validations for source in x["validation"])
    for axes, prompt in zip(scores, ("box", "click"), strict=True):
        trained = [x[prompt] for x in training]
        axes.plot([x["step"] for x in training], trained, color="lightgrey", linewidth=0.7, label="training")
        for source in sources:
            seen = [x for x in validations if source in x["validation"]]
            values = [x["validation"][source][prompt] for x in seen]
            axes.plot([x["step"] for x in seen], values, marker=".", linewidth=1, label=source)
        axes.set(xlabel="step", ylabel=f"mean IoU by {prompt}", ylim=(0, 1))
    scores[0].legend(fontsize="x-small")
    for before, after in itertools.pairwise(training):
        if before["size"] != after["size"]:
            for axes in (losses, *scores):
                axes.axvline(after["step"], color="grey", linestyle=":", linewidth=1)
                axes.annotate(
                    f" {after['size']} px", (after["step"], 0.02), xycoords=("data", "axes fraction")
                )
    for axes in (losses, *scores):
        axes.grid(alpha=0.3)
    with whole_file(picture) as part:
        figure.savefig(part, dpi=120)
