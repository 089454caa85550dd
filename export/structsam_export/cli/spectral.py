"""Measure how far merging methods move the spectrum of a photograph's token graphs (paper section 4).

structsam spectral photo.jpg -o spectral.png --rate 0.55 --random-weights
"""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from structsam_runtime import UserError
from structsam_runtime.files import check_output, whole_file
from structsam_runtime.predict.image import prepare, read_image

from ..analysis.spectral import BlockDistortion, encoder_distortion, encoder_sums
from ..choices import MethodName
from ..config import ExportConfig
from ..description import model_of
from ..models.architectures import ARCHITECTURES, DEFAULT
from ..pipeline import load, weights_source

PICTURES = (".png", ".pdf", ".svg")
GRAPH = "max(cosine, 0) with self-loops, of norm1's output in the unmerged encoder"
# Okabe and Ito's palette: distinguishable for colour-blind people too.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = "osD^v<>"
KINDS = ("window", "global")
ROUNDING = 1e-9
"""Where the plot's logarithmic axis ends: a spectrum that did not move differs by rounding, or not at all."""


def main(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Any picture.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The plot; its numbers go beside it as .json.")
    ],
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = DEFAULT,
    checkpoint: Annotated[Path | None, typer.Option(metavar="PATH")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights")] = False,
    rate: Annotated[float, typer.Option(help="Share of tokens removed, 0 to 0.75.")] = 0.55,
    method: Annotated[list[MethodName] | None, typer.Option(help="Repeatable; default: all.")] = None,
    image_size: Annotated[
        int,
        typer.Option(metavar="INT", help="Pixels along the side of the input; 0 is the architecture's own."),
    ] = 0,
) -> None:
    """Plot the spectral discrepancy of every block (eq. 1) for all methods, and print its sum (eq. 2).

    Every method merges the features of the same, unmerged encoder.
    """
    _check_plot(output, photo)
    configs = [
        ExportConfig(arch, checkpoint, random_weights, name, rate, rate, image_size=image_size)
        for name in dict.fromkeys(method or MethodName)
    ]
    picture = read_image(photo)
    sam = load(configs[0])
    tensor, _ = prepare(picture, model_of(configs[0], sam))
    blocks = encoder_distortion(
        sam.image_encoder,
        torch.from_numpy(tensor),
        {config.method.value: config.methods() for config in configs},
    )
    depth = configs[0].architecture.depth
    console = Console(stderr=True)
    quiet = not console.is_terminal  # where rich would still leave an empty line
    shown = track(blocks, "spectra", total=depth, transient=True, console=console, disable=quiet)
    measured = list(shown)
    result = {"photo": photo.name, **_told(configs[0]), **_numbers(measured)}
    with whole_file(output) as part:
        plot(measured, _title(configs[0])).savefig(part)
    with whole_file(output.with_suffix(".json")) as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
    Console().print(_table(measured))


def _check_plot(output: Path, photo: Path) -> None:
    if output.suffix.lower() not in PICTURES:
        raise UserError(f"--output {output} does not end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
    if output.resolve() == photo.resolve():
        raise UserError(f"the output {output} is the photograph itself; choose another name")
    check_output(output)


def _told(config: ExportConfig) -> dict[str, Any]:
    """What was measured, for the JSON."""
    return {
        "arch": config.arch,
        "weights": weights_source(config),
        "image_size": config.image_size,
        "rate": config.rate_global,
        "graph": GRAPH,
    }


def _numbers(blocks: Sequence[BlockDistortion]) -> dict[str, Any]:
    """SD per block and D_enc, for the JSON."""
    rows = [
        {
            "block": block.index,
            "attention": _kind(block),
            "windows": block.windows.per_image,
            "tokens": block.windows.tokens,
            "slots": block.slots,
            "sd": block.discrepancy,
        }
        for block in blocks
    ]
    return {"blocks": rows, "encoder": encoder_sums(blocks)}


def _kind(block: BlockDistortion) -> str:
    return "window" if block.attends_in_windows else "global"


def _title(config: ExportConfig) -> str:
    weights = ", random weights" if config.random_weights else ""
    return f"{config.arch}{weights}, {config.image_size} px, rate {config.rate_global:g}"


def plot(blocks: Sequence[BlockDistortion], title: str) -> Figure:
    """SD over the blocks, a line per method; window and global blocks side by side, as their SDs differ in
    scale: a global block has one graph, a window block one per window."""
    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    sums = encoder_sums(blocks)
    for axes, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        alike = [block for block in blocks if _kind(block) == kind]
        for (name, total), colour, marker in zip(sums.items(), cycle(COLOURS), cycle(MARKERS)):
            axes.plot(
                [block.index for block in alike],
                [max(block.discrepancy[name], ROUNDING) for block in alike],
                color=colour,
                marker=marker,
                label=f"{name}: {total:.3g}",
            )
        axes.set(title=f"{kind} blocks", xlabel="block", ylabel="SD", yscale="log")
        axes.set_xticks([block.index for block in alike])
        axes.grid(alpha=0.3, which="both")
    lines, labels = axes.get_legend_handles_labels()
    figure.suptitle(title)
    figure.legend(
        lines, labels, loc="outside lower center", ncols=4, title="sum over all blocks", frameon=False
    )
    return figure


def _cells(blocks: Sequence[BlockDistortion], kind: str, name: str) -> list[str]:
    """Slots of tokens in one window, and SD, of the blocks of a kind."""
    alike = [block for block in blocks if _kind(block) == kind]
    counts = sorted({block.slots[name] for block in alike})  # ALGM's differ by one between blocks
    slots = f"{', '.join(map(str, counts))} of {alike[0].windows.tokens}"
    return [slots, f"{sum(block.discrepancy[name] for block in alike):.4f}"]


def _table(blocks: Sequence[BlockDistortion]) -> Table:
    """Slots per window and SD, summed over the blocks of a kind, and D_enc."""
    heads = [f"{kind} {what}" for kind in KINDS for what in ("slots", "SD")]
    table = Table("method", *heads, "sum of SD", box=None)
    for name, total in encoder_sums(blocks).items():
        cells = [cell for kind in KINDS for cell in _cells(blocks, kind, name)]
        table.add_row(name, *cells, f"{total:.4f}")
    return table
