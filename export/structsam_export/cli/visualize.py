"""Draw merging on a photograph: energy, merged tokens, destinations, and the change of a mask.

structsam visualize photo.jpg -o plan.png --rate 0.55 --block 2 --random-weights
structsam visualize photo.jpg -o plan.png --all-methods --box 100 80 400 360
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime import UserError
from structsam_runtime.files import check_drawing, whole_file
from structsam_runtime.predict.image import Frame, read_image
from structsam_runtime.predict.prompts import encode

from ..analysis.sheet import MASK_KEY, TOKEN_KEY, panels, sheet, title_of
from ..config import ExportConfig
from ..merging.registry import DEFAULT as DEFAULT_METHOD
from ..merging.registry import METHODS
from ..models.checkpoints import architecture_named
from ..models.family import FAMILIES
from ..options import Arch, Checkpoint, ImageSize, RandomWeights, WeightsFamily

FORMATS = (".png", ".jpg", ".pdf", ".svg")


def main(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photograph.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The panels: .png, .jpg, .pdf or .svg.")],
    arch: Arch = None,
    checkpoint: Checkpoint = None,
    family: WeightsFamily = "",
    random_weights: RandomWeights = False,
    rate: Annotated[float, typer.Option(help="Share of tokens removed, 0 to 0.75.")] = 0.55,
    method: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: structsam.")] = None,
    all_methods: Annotated[bool, typer.Option("--all-methods", help="Draw all methods.")] = False,
    block: Annotated[
        list[int] | None,
        typer.Option(help="Block to draw; repeatable. Default: the first global block."),
    ] = None,
    box: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(metavar="X0 Y0 X1 Y1", help="Box prompt in pixels; draws its masks too."),
    ] = None,
    image_size: ImageSize = 0,
) -> None:
    """Draw which tokens blocks merge, the energy that decides it, and how the mask of a box changes.

    Features are those of the merged encoder: earlier blocks merge with the same method.
    """
    check_drawing(output, photo, FORMATS)
    if checkpoint is not None and random_weights:
        raise UserError("--checkpoint and --random-weights exclude each other; give one of them")
    names = METHODS if all_methods else dict.fromkeys(method or [DEFAULT_METHOD])
    architecture = architecture_named(arch, checkpoint)
    configs = [
        ExportConfig.of(
            architecture,
            name,
            rate,
            checkpoint=checkpoint,
            random_weights=random_weights,
            family=family,
            image_size=image_size,
        )
        for name in names
    ]
    blocks = _blocks(block or [], configs[0])
    picture = read_image(photo)
    fit = FAMILIES[configs[0].family].pixels.fit
    frame = Frame.of(picture.shape[0], picture.shape[1], configs[0].image_size, fit)
    prompts = encode(frame, box=box) if box else None
    groups = panels(picture, configs, blocks, prompts)
    key = TOKEN_KEY + MASK_KEY if prompts else TOKEN_KEY
    with whole_file(output) as part:
        sheet(groups, title_of(configs[0]), key).savefig(part)
    typer.echo(f"{output}: {sum(map(len, groups))} panels")


def _blocks(asked: Sequence[int], config: ExportConfig) -> list[int]:
    """The blocks to draw, in ascending order."""
    depth = config.architecture.depth
    for block in asked:
        if not 0 <= block < depth:
            raise UserError(f"--block {block} is not in {config.arch}; expected 0 to {depth - 1}")
    return sorted(set(asked)) or [config.architecture.global_blocks[0]]
