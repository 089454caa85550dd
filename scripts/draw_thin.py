"""Draw the scenes of thin objects that the small SAM is validated on, as a dataset for `structsam evaluate`.

python scripts/draw_thin.py --data ../shared/data/coco-train -o thin
structsam evaluate --dataset thin --root thin --arch vit_b -o results
"""

from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime import UserError
from structsam_runtime.cli.console import missing, run

try:
    from PIL import Image

    from structsam_export.training.data import FINAL, thin_set
    from structsam_export.training.photos import read_photos
except ModuleNotFoundError as error:
    missing(error)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder in COCO's panoptic layout.")] = Path(
        "data"
    ),
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 40,
    size: Annotated[int, typer.Option(min=64, help="Pixels along a scene's side.")] = FINAL,
) -> None:
    """Always the same scenes, in front of the photographs that training leaves out."""
    if output.exists():
        raise UserError(f"{output} is already there; give -o a new folder")
    scenes = thin_set(read_photos(data), size, count)
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(output / "images" / f"{index:03d}.png")
        Image.fromarray(scene.labels).save(output / "labels" / f"{index:03d}.png")
    typer.echo(f"{output}: {count} scenes of {size} x {size} pixels")


if __name__ == "__main__":
    run(main)
