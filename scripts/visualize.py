"""Show what StructSAM merges in a photograph: its energy, and the cells that collapse.

python scripts/visualize.py photo.jpg -o plan.png --rate 0.55 --block 2 --random-weights
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime import UserError
from structsam_runtime.console import check_output, missing, run, whole_file
from structsam_runtime.image import prepare, read_image

try:
    import torch

    from structsam_export.config import ExportConfig
    from structsam_export.encoder.attention import layer_norm
    from structsam_export.encoder.patch import merged_blocks
    from structsam_export.manifest import model_of
    from structsam_export.merging import MergePlan, Windows, gradient_energy
    from structsam_export.pipeline import load
except ModuleNotFoundError as error:
    missing(error)

DIM = 0.35
"""Brightness of the photograph where tokens merge."""


def main(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Any picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Photograph, energy and plan in a row.")],
    arch: Annotated[str, typer.Option(help="vit_b, vit_l or vit_h.")] = "vit_b",
    checkpoint: Annotated[Path | None, typer.Option(metavar="PATH")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights")] = False,
    rate: Annotated[float, typer.Option(help="Share of tokens removed, 0 to 0.75.")] = 0.55,
    block: Annotated[int, typer.Option(help="Whose plan; SAM's global blocks show whole objects.")] = 2,
) -> None:
    """Draw the photograph, the energy of its features, and what one block merges (dim) and keeps."""
    check_output(output)
    config = ExportConfig(arch, checkpoint, random_weights, rate_window=rate, rate_global=rate)
    if not 0 <= block < config.architecture.depth:
        raise UserError(f"--block {block} is not in {arch}; expected 0 to {config.architecture.depth - 1}")
    picture = read_image(photo)
    sam = load(config)
    tensor, frame = prepare(picture, model_of(config, sam))
    energy, alone = plan_of(sam.image_encoder, torch.from_numpy(tensor), block)
    height, width = -(-frame.resized_height // 16), -(-frame.resized_width // 16)
    size = (frame.resized_width, frame.resized_height)
    shown = Image.fromarray(picture).resize(size)
    kept = np.asarray(enlarge(alone[:height, :width], size))[..., None] > 0
    bright = np.asarray(shown).astype(np.float32)
    plan = np.where(kept, bright, bright * DIM).astype(np.uint8)
    panels = [np.asarray(shown), heat(enlarge(energy[:height, :width], size)), plan]
    with whole_file(output) as part:
        Image.fromarray(np.concatenate(panels, 1)).save(part)
    typer.echo(f"{output}: photograph, energy, merged tokens dimmed ({1 - alone.mean():.0%} of the map)")


@torch.no_grad()
def plan_of(encoder: Any, image: torch.Tensor, block: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Energy and merges of one block.

    Returns:
        The energy G [H, W], and [H, W] ones where a token keeps a slot of its own.
    """
    blocks = merged_blocks(encoder)
    x = encoder.patch_embed(image) + encoder.pos_embed
    for earlier in blocks[:block]:
        x = earlier(x)
    chosen = blocks[block]
    features = layer_norm(chosen.norm1, x)
    plan = chosen.method.plan(features, chosen.windows)
    energy = gradient_energy(features)[0].sqrt().numpy()
    return energy, own_slot(plan, chosen.windows).numpy()


def own_slot(plan: MergePlan, windows: Windows) -> torch.Tensor:
    """[H, W] ones where a token of the first image is alone in its slot."""
    alone = (plan.size == 1).float()[..., None]  # [B', K, 1]
    rows = windows.token_of_row(1, alone.device)
    return plan.unmerge_rows(alone, rows).view(windows.height, windows.width)


def enlarge(values: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """[h, w] to a picture of `size` (width, height), every token a block of pixels."""
    return Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.NEAREST)


def heat(values: Image.Image) -> NDArray[np.uint8]:
    """Energies as colours from black over red and yellow to white, by their 1st and 99th percentile."""
    array = np.asarray(values)
    low, high = np.percentile(array, (1, 99))
    level = np.clip((array - low) / max(high - low, 1e-9), 0, 1)[..., None]
    colours: NDArray[np.uint8] = (np.clip(level * 3 - np.array([0, 1, 2]), 0, 1) * 255).astype(np.uint8)
    return colours


if __name__ == "__main__":
    run(main)
