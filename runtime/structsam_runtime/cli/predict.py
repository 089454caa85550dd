"""Segment one photograph with an export and draw what came out.

structsam predict OUT photo.jpg --box 100 80 400 360 -o overlay.png
structsam predict OUT photo.jpg --everything -o overlay.png
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from .. import AutomaticMaskGenerator, Predictor, UserError
from ..batch.boxes import sound_boxes, told
from ..files import check_output, whole_file
from ..pictures import MAX_PIXELS, read_image
from ..pictures.writing import check_holds, save
from ..predict.automatic.annotations import annotated
from ..predict.drawing import Pointed, draw, draw_everything
from ..predict.image import Frame
from ..runners import RUNNERS
from .console import FAILED, LOWER, given, numbers, option

LOSSLESS = {"PNG", "TIFF", "BMP", "PPM"}
"""Formats that give back the pixels of a mask, however Pillow writes them."""
VALUES = {"--box": 4, "--point": 2, "--negative": 2}  # numbers after each option


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of structsam export.")],
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
    everything: Annotated[
        bool, typer.Option("--everything", help="All masks of the picture, without a prompt.")
    ] = False,
    points_per_side: Annotated[
        int | None, typer.Option(help="Everything: points along each side of the grid; default 32.")
    ] = None,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option(max=1, help="Everything: masks of a lower predicted IoU are dropped; default 0.88."),
    ] = None,
    stability_score_thresh: Annotated[
        float | None,
        typer.Option(max=1, help="Everything: masks of a lower stability are dropped; default 0.95."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Everything: also write the masks as COCO annotations, a .json.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Also write the mask (all masks together) as 0 and 255.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="A larger picture is refused before it is decoded.")
    ] = MAX_PIXELS,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Load .onnx files that you changed, as by quantisation.")
    ] = False,
) -> None:
    """Segment one photograph and draw the masks. Coordinates are pixels of the photograph.

    Of several boxes one that is wrong fails alone, and the exit code is 3.
    """
    settings = given(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
    )
    if everything:
        _check_no_prompt(box or point or negative, multimask)
        asked = Pointed([], [], [])
    else:
        _check_no_setting([*settings, *(["annotations"] if annotations else [])])
        asked = _asked(box or [], point or [], negative or [])
    _check_outputs(output, mask, annotations, photo)
    rgb = read_image(photo, max_pixels)
    check_holds(output, "RGB", *rgb.shape[:2])
    if mask:
        check_holds(mask, "L", *rgb.shape[:2])
    with Predictor.load(out, runner, verified=not unverified) as predictor:
        if everything:
            found = _find(predictor, rgb, settings)
            drawing, union = draw_everything(rgb, found)
        else:
            masks, iou, answered = _predict(predictor, rgb, asked, multimask)
            within = [_within(box, max(rgb.shape)) for box in answered.boxes]
            drawing = draw(rgb, masks, iou, replace(answered, boxes=within))
            union = np.logical_or.reduce(masks)
    save(drawing, output)
    if mask:
        save(Image.fromarray(union.astype(np.uint8) * 255), mask)
    if annotations:
        with whole_file(annotations) as part:
            part.write_text(json.dumps(annotated(found, photo.name, *rgb.shape[:2])) + "\n")
    if not everything and len(answered.boxes) < len(asked.boxes):
        raise typer.Exit(FAILED)


def _check_no_prompt(prompted: object, multimask: bool) -> None:
    if prompted:
        raise UserError("--everything came with prompts; give either --everything or --box and --point")
    if multimask:
        raise UserError("--everything came with --multimask, which it does anyway; leave that out")


def _check_no_setting(settings: Sequence[str]) -> None:
    if settings:
        raise UserError(
            f"{option(settings[0])} goes with --everything; leave it out, or give --everything and no prompt"
        )


def _asked(box: Sequence[str], point: Sequence[str], negative: Sequence[str]) -> Pointed:
    if not (box or point or negative):
        raise UserError("no prompt; give --box X0 Y0 X1 Y1 or --point X Y, or --everything")
    if len(box) > 1 and (point or negative):
        raise UserError(f"points came with {len(box)} boxes, expected one box at most; run once for each box")
    return Pointed(
        boxes=[numbers("--box", text, ("X0", "Y0", "X1", "Y1")) for text in box],
        points=[numbers("--point", text, ("X", "Y")) for text in point]
        + [numbers("--negative", text, ("X", "Y")) for text in negative],
        labels=[1] * len(point) + [0] * len(negative),
    )


def _check_outputs(output: Path, mask: Path | None, annotations: Path | None, photo: Path) -> None:
    for path in (output, mask) if mask else (output,):
        _check_picture_output(path, photo)
    if mask and Image.registered_extensions()[mask.suffix.lower()] not in LOSSLESS:
        raise UserError(
            f"cannot write {mask}: a {mask.suffix} would not keep 0 and 255 as they are; use .png"
        )
    if mask and mask.resolve() == output.resolve():
        raise UserError(f"--output and --mask are both {output}; choose two names")
    if annotations:
        check_output(annotations)
        if annotations.suffix != ".json":
            raise UserError(f"cannot write {annotations}: '{annotations.suffix}' is not .json")


def _check_picture_output(path: Path, photo: Path) -> None:
    check_output(path, photo)
    formats = Image.registered_extensions()
    if formats.get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"cannot write {path}: '{path.suffix}' is not a picture format; use .png or .jpg")


def _predict(
    predictor: Predictor, rgb: NDArray[np.uint8], asked: Pointed, multimask: bool
) -> tuple[NDArray[np.bool_], NDArray[np.float32], Pointed]:
    """Masks bool [K, H, W] and predicted IoU [K], and what they were asked with; with a report."""
    start = time.perf_counter()
    predictor.set_image(rgb)
    seen = time.perf_counter()
    # Several boxes are a batch, of which some may fail; points, with or without a box, are one prompt.
    numbered: list[int] = []
    if len(asked.boxes) > 1:
        asked, numbered = _sound(asked, predictor.frame)
    masks, iou, _ = predictor.predict(
        point_coords=[asked.points] if asked.points else None,
        point_labels=[asked.labels] if asked.labels else None,
        box=asked.boxes or None,
        multimask_output=multimask,
    )
    done = time.perf_counter()
    masks, iou = masks.reshape(-1, *masks.shape[-2:]), iou.reshape(-1)
    boxes = [number for number in numbered for _ in range(len(masks) // len(numbered))]
    for index, (mask, quality) in enumerate(zip(masks, iou, strict=True), start=1):
        box = f", box {boxes[index - 1]}" if boxes else ""
        print(f"mask {index}{box}: {mask.mean():.1%} of the picture, predicted IoU {quality:.3f}")
    print(f"photograph {1e3 * (seen - start):.0f} ms (resize, encoder)", end=", ")
    print(f"prompts {1e3 * (done - seen):.0f} ms (decoder, upscale)")
    return masks, iou, asked


def _sound(asked: Pointed, frame: Frame) -> tuple[Pointed, list[int]]:
    """The boxes that can be answered, and their numbers from 1; says which of the others cannot."""
    boxes, errors = sound_boxes(asked.boxes, frame)
    if errors:
        print(told(errors, asked.boxes), file=sys.stderr)
    numbered = [number for number in range(1, len(asked.boxes) + 1) if number not in errors]
    return replace(asked, boxes=[list(box) for box in boxes]), numbered


def _within(box: Sequence[float], side: int) -> list[float]:
    """A box to draw, no further out than a picture's longer side: Pillow draws what nobody sees too."""
    return [min(max(place, -side), 2 * side) for place in box]


def _find(predictor: Predictor, rgb: NDArray[np.uint8], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """All masks, largest first; with a report."""
    generator = AutomaticMaskGenerator(predictor, output_mode="uncompressed_rle", **settings)
    start = time.perf_counter()
    found = generator.generate(rgb)
    seconds = time.perf_counter() - start
    print(f"{len(found)} masks in {seconds:.1f} s", end="")
    print("" if found else f"; {LOWER}")
    return sorted(found, key=lambda one: -one["area"])
