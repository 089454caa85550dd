"""Segment one photograph with an export and draw what came out.

python scripts/predict.py OUT photo.jpg --box 100 80 400 360 -o overlay.png
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from structsam_runtime import Predictor, UserError
from structsam_runtime.console import check_output, join_values, numbers, run, whole_file
from structsam_runtime.image import read_image
from structsam_runtime.runners import RUNNERS

# Okabe and Ito's palette, without black and grey: distinguishable for colour-blind people too.
COLOURS = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
FILL = 0.45  # opacity of a mask
GREEN, RED, WHITE, BLACK = (30, 200, 60), (230, 40, 40), (255, 255, 255), (0, 0, 0)
VALUES = {"--box": 4, "--point": 2, "--negative": 2}  # numbers after each option


@dataclass(frozen=True)
class Asked:
    """The prompts of the command line, in pixels of the photograph."""

    boxes: list[list[float]]  # x0, y0, x1, y1
    points: list[list[float]]  # x, y
    labels: list[int]  # 1 foreground, 0 background, one for each point


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of export.py.")],
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="The picture to segment.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The drawing: photograph, masks and prompts.")
    ],
    box: Annotated[list[str] | None, typer.Option(metavar="X0 Y0 X1 Y1", help="A box; repeatable.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="X Y", help="A point on the object; repeatable.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(metavar="X Y", help="A point off the object; repeatable.")
    ] = None,
    multimask: Annotated[
        bool, typer.Option("--multimask", help="The decoder's three candidates instead of one mask.")
    ] = False,
    mask: Annotated[
        Path | None, typer.Option(help="Also write the mask (all masks together) as 0 and 255.")
    ] = None,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
) -> None:
    """Segment one photograph and draw the masks. Coordinates are pixels of the photograph."""
    asked = _asked(box or [], point or [], negative or [])
    for path in (output, mask) if mask else (output,):
        _check_picture_output(path, photo)
    if mask and mask.resolve() == output.resolve():
        raise UserError(f"--output and --mask are both {output}; choose two names")
    rgb = read_image(photo)
    with Predictor.load(out, runner) as predictor:
        start = time.perf_counter()
        predictor.set_image(rgb)
        seen = time.perf_counter()
        masks, iou = _predict(predictor, asked, multimask)
        done = time.perf_counter()
    _report(masks, iou)
    print(f"photograph {1e3 * (seen - start):.0f} ms (resize, encoder)", end=", ")
    print(f"prompts {1e3 * (done - seen):.0f} ms (decoder, upscale)")
    _save(draw(rgb, masks, iou, asked), output)
    if mask:
        _save(Image.fromarray(masks.any(axis=0).astype(np.uint8) * 255), mask)


def _asked(box: Sequence[str], point: Sequence[str], negative: Sequence[str]) -> Asked:
    if not (box or point or negative):
        raise UserError("no prompt; give --box X0 Y0 X1 Y1 or --point X Y")
    if len(box) > 1 and (point or negative):
        raise UserError(f"points came with {len(box)} boxes, expected one box at most; run once for each box")
    return Asked(
        boxes=[numbers("--box", text, ("X0", "Y0", "X1", "Y1")) for text in box],
        points=[numbers("--point", text, ("X", "Y")) for text in point]
        + [numbers("--negative", text, ("X", "Y")) for text in negative],
        labels=[1] * len(point) + [0] * len(negative),
    )


def _check_picture_output(path: Path, photo: Path) -> None:
    check_output(path)
    if path.resolve() == photo.resolve():
        raise UserError(f"the output {path} is the photograph itself; choose another name")
    formats = Image.registered_extensions()
    if formats.get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"cannot write {path}: '{path.suffix}' is not a picture format; use .png or .jpg")


def _predict(
    predictor: Predictor, asked: Asked, multimask: bool
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks bool [K, H, W] and predicted IoU [K] of all prompts, in one run of the decoder."""
    # Several boxes are a batch; points, with or without a box, are one prompt.
    masks, iou, _ = predictor.predict(
        point_coords=[asked.points] if asked.points else None,
        point_labels=[asked.labels] if asked.labels else None,
        box=asked.boxes or None,
        multimask_output=multimask,
    )
    return masks.reshape(-1, *masks.shape[-2:]), iou.reshape(-1)


def _report(masks: NDArray[np.bool_], iou: NDArray[np.float32]) -> None:
    for index, (mask, quality) in enumerate(zip(masks, iou, strict=True), start=1):
        print(f"mask {index}: {mask.mean():.1%} of the picture, predicted IoU {quality:.3f}")


def _save(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as part:
        picture.save(part)


def draw(
    rgb: NDArray[np.uint8], masks: NDArray[np.bool_], iou: NDArray[np.float32], asked: Asked
) -> Image.Image:
    """The photograph with translucent masks, their outlines, their predicted IoU, and the prompts.

    Args:
        rgb: uint8 [H, W, 3].
        masks: bool [K, H, W].
        iou: float32 [K].
        asked: boxes and points to draw over them.
    """
    line = max(1, round(max(rgb.shape[:2]) / 300))  # pixels, so that large photographs get visible lines
    canvas = rgb.copy()
    # Large masks first: a part stays visible on its whole.
    for index in np.argsort([-mask.sum() for mask in masks], kind="stable"):
        _paint(canvas, masks[index], COLOURS[index % len(COLOURS)], line)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    per_box = len(masks) // max(1, len(asked.boxes))
    for index, box in enumerate(asked.boxes):
        colour = WHITE if per_box > 1 else COLOURS[index % len(COLOURS)]
        _outlined_box(pen, box, colour, line)
    for point, label in zip(asked.points, asked.labels, strict=True):
        radius = 3 * line
        _disc(pen, point, radius + line, WHITE)
        _disc(pen, point, radius, GREEN if label else RED)
    _write_qualities(pen, masks, iou, line)
    return picture


def _paint(
    canvas: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int], line: int
) -> None:
    """Fill a mask and line its inner edge, in place."""
    canvas[mask] = np.rint((1 - FILL) * canvas[mask] + FILL * np.array(colour)).astype(np.uint8)
    canvas[mask & ~_eroded(mask, line)] = colour


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask [H, W] less the pixels within ``steps`` of its edge; the picture's rim is no edge."""
    inner = mask
    for _ in range(steps):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def _outlined_box(
    pen: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int], line: int
) -> None:
    """A rectangle with a dark rim, to be seen on any background."""
    x0, y0, x1, y1 = box
    pen.rectangle((x0 - line, y0 - line, x1 + line, y1 + line), outline=BLACK, width=3 * line)
    pen.rectangle(box, outline=colour, width=line)


def _disc(
    pen: ImageDraw.ImageDraw, centre: Sequence[float], radius: int, colour: tuple[int, int, int]
) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _write_qualities(
    pen: ImageDraw.ImageDraw, masks: NDArray[np.bool_], iou: NDArray[np.float32], line: int
) -> None:
    """Each predicted IoU at the top of its mask, on a chip of the mask's colour."""
    size = 8 + 5 * line
    font = ImageFont.load_default(size)
    taken: list[tuple[float, float]] = []
    for index, mask in enumerate(masks):
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows) == 0:
            continue
        x, y = float(np.flatnonzero(mask[rows[0]]).mean()), float(rows[0])
        while any(abs(x - u) < 3 * size and abs(y - v) < 1.5 * size for u, v in taken):
            y += 1.5 * size  # below the chip that is there already
        taken.append((x, y))
        text = f"{iou[index]:.2f}"
        left, top, right, bottom = pen.textbbox((x, y), text, font=font, anchor="ma")
        chip = (left - line, top - line, right + line, bottom + line)
        pen.rectangle(chip, fill=COLOURS[index % len(COLOURS)])
        pen.text((x, y), text, font=font, anchor="ma", fill=BLACK)


if __name__ == "__main__":
    run(main, join_values(sys.argv[1:], VALUES))
