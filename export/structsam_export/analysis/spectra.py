"""Spectral discrepancies of every block as numbers, a table and a plot."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from structsam_runtime.colours import BLACK, LINES, code

from ..config import ExportConfig
from ..pipeline import weights_source
from .spectral import BlockDistortion, encoder_sums

GRAPH = "max(cosine, 0) with self-loops, of norm1's output in the unmerged encoder"
COLOURS = tuple(map(code, (*LINES, BLACK)))
MARKERS = "osD^v<>"
KINDS = ("window", "global")
ROUNDING = 1e-9
"""Lower end of the plot's logarithmic axis: differences of an unchanged spectrum are rounding errors or 0."""


def numbers(config: ExportConfig, blocks: Sequence[BlockDistortion]) -> dict[str, Any]:
    """The measurements for the JSON: SD of every block (eq. 1), and D_enc (eq. 2)."""
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
    return {
        "arch": config.arch,
        "weights": weights_source(config),
        "image_size": config.image_size,
        "rate": config.rate,
        "graph": GRAPH,
        "blocks": rows,
        "encoder": encoder_sums(blocks),
    }


def _kind(block: BlockDistortion) -> str:
    return "window" if block.attends_in_windows else "global"


def plot(blocks: Sequence[BlockDistortion], title: str) -> Figure:
    """Plot SD by block with one line per method.

    Window and global blocks have separate axes, because their SDs differ in scale: a global block has one
    graph, a window block has one per window.
    """
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
    """Two cells for the blocks of a kind: slots of one window, and the sum of SD."""
    alike = [block for block in blocks if _kind(block) == kind]
    counts = sorted({block.slots[name] for block in alike})  # ALGM's differ by one between blocks
    slots = f"{', '.join(map(str, counts))} of {alike[0].windows.tokens}"
    return [slots, f"{sum(block.discrepancy[name] for block in alike):.4f}"]


def table(blocks: Sequence[BlockDistortion]) -> Table:
    """A table by method: slots per window and SD summed over the blocks of each kind, and D_enc."""
    heads = [f"{kind} {what}" for kind in KINDS for what in ("slots", "SD")]
    table = Table("method", *heads, "sum of SD", box=None)
    for name, total in encoder_sums(blocks).items():
        cells = [cell for kind in KINDS for cell in _cells(blocks, kind, name)]
        table.add_row(name, *cells, f"{total:.4f}")
    return table
