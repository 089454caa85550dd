"""Measure how much merging methods change the spectrum of a photograph's token graphs (paper section 4).

structsam spectral photo.jpg -o spectral.png --rate 0.55 --random-weights
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from structsam_runtime.files import check_drawing, whole_file
from structsam_runtime.predict.image import prepare, read_image

from ..analysis.sheet import title_of
from ..analysis.spectra import numbers, plot, table
from ..analysis.spectral import encoder_distortion
from ..config import ExportConfig
from ..description import model_of
from ..merging.registry import METHODS
from ..models.checkpoints import architecture_named
from ..options import Arch, Checkpoint, ImageSize, RandomWeights, WeightsFamily
from ..pipeline import load
from ..progress import shown

PICTURES = (".png", ".pdf", ".svg")


def main(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photograph.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The plot; the numbers are written beside it as .json.")
    ],
    arch: Arch = None,
    checkpoint: Checkpoint = None,
    random_weights: RandomWeights = False,
    family: WeightsFamily = "",
    rate: Annotated[float, typer.Option(help="Share of tokens removed, 0 to 0.75.")] = 0.55,
    method: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: all.")] = None,
    image_size: ImageSize = 0,
) -> None:
    """Plot the spectral discrepancy of every block (eq. 1) by method, and print its sum (eq. 2).

    All methods merge the features of the same, unmerged encoder.
    """
    check_drawing(output, photo, PICTURES)
    architecture = architecture_named(arch, checkpoint)
    configs = {
        name: ExportConfig.of(
            architecture,
            name,
            rate,
            checkpoint=checkpoint,
            random_weights=random_weights,
            family=family,
            image_size=image_size,
        )
        for name in method or METHODS
    }
    first = next(iter(configs.values()))
    picture = read_image(photo)
    sam = load(first)
    tensor, _ = prepare(picture, model_of(first, sam))
    blocks = encoder_distortion(
        sam.image_encoder,
        torch.from_numpy(tensor),
        {name: config.methods() for name, config in configs.items()},
    )
    measured = list(shown(blocks, "spectra", first.architecture.depth))
    result = {"photo": photo.name, **numbers(first, measured)}
    with whole_file(output) as part:
        plot(measured, title_of(first)).savefig(part)
    with whole_file(output.with_suffix(".json")) as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
    Console().print(table(measured))
