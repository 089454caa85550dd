"""Write the validation scenes of thin objects as a dataset for `structsam evaluate`.

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
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 40,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = FINAL,
) -> None:
    """Draw a fixed set of scenes on photographs that training does not use."""
    if output.exists():
        raise UserError(f"{output} exists already; give -o a new folder")
    scenes = thin_set(read_photos(data), size, count)
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(output / "images" / f"{index:03d}.png")
        Image.fromarray(scene.labels).save(output / "labels" / f"{index:03d}.png")
    typer.echo(f"{output}: {count} scenes of {size} x {size} pixels")


if __name__ == "__main__":
    run(main)
