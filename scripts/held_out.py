"""Write what training holds out as datasets for `structsam evaluate`.

python scripts/held_out.py --data ../shared/data -o held-out
structsam evaluate --dataset held-out --split photographs --root held-out -o results
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from structsam_runtime import UserError
from structsam_runtime.cli.console import missing, run

try:
    from PIL import Image

    from structsam_export.training.data import FINAL, Example
    from structsam_export.training.photos import read_data
    from structsam_export.training.validate import DRAWN, held_out
except ModuleNotFoundError as error:
    missing(error)

SPLITS = {
    "photographs": ("coco-train", "coco_minis", "coco_persons"),
    "salient": ("duts_tr", "human_seg"),
    "thin": ("powerlines_pld", "retina_vessels"),
    "drawn": (DRAWN,),
}
"""The sources of each split."""


def main(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
    data: Annotated[Path, typer.Option(help="Folder that holds coco-train and train.")] = Path("data"),
    pictures: Annotated[int | None, typer.Option(min=1, help="Of each source at most. Default: all.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Number of drawn scenes.")] = 40,
) -> None:
    """Write the pictures and objects that the small model is validated on, one split for each kind."""
    if output.exists():
        raise UserError(f"{output} exists already; give -o a new folder")
    found = held_out(read_data(data), FINAL, pictures, scenes)
    for split, sources in SPLITS.items():
        examples = [
            (source, index, one) for source in sources for index, one in enumerate(found.get(source, ()))
        ]
        for source, index, example in examples:
            _write(output / split, f"{source.replace(' ', '_')}_{index:03d}", example)
        typer.echo(f"{output / split}: {len(examples)} pictures")


def _write(folder: Path, name: str, example: Example) -> None:
    """Write a picture and its objects; all other pixels, also those of unknown objects, are 0."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    asked = np.isin(example.labels, example.objects)
    Image.fromarray(example.image).save(folder / "images" / f"{name}.png")
    Image.fromarray(np.where(asked, example.labels, 0).astype(np.uint8)).save(
        folder / "labels" / f"{name}.png"
    )


if __name__ == "__main__":
    run(main)
