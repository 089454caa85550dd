"""Multiply-accumulates of an encoder as a table: one row for every block, and sums."""

from rich.table import Table

from .macs import EncoderMacs

COLUMNS = (
    "qkv",
    "scores",
    "values",
    "relative_position",
    "proj",
    "mlp",
    "norm",
    "energy",
    "similarity",
    "averaging",
)


def breakdown(macs: EncoderMacs) -> Table:
    """A table of multiply-accumulates in 10^9: one row for every block, and a row of sums."""
    table = Table("block", "kind", *(name.replace("_", " ") for name in COLUMNS), "total", box=None)
    for block in macs.blocks:
        values = [getattr(block, name) for name in COLUMNS]
        table.add_row(str(block.block), block.kind, *map(_giga, [*values, sum(values)]))
    sums = [sum(getattr(block, name) for block in macs.blocks) for name in COLUMNS]
    table.add_row("sum", "", *map(_giga, [*sums, sum(sums)]), style="bold")
    return table


def totals(macs: EncoderMacs) -> list[str]:
    """Lines with the multiply-accumulates of the whole encoder in 10^9, under each counting convention."""
    share = macs.total / macs.unmerged
    before = macs.unmerging_before_proj
    return [
        f"patch embedding and neck: {macs.stem / 1e9:.2f}",
        f"encoder: {macs.total / 1e9:.2f} of {macs.unmerged / 1e9:.3f} unmerged ({1 - share:.1%} less)",
        f"unmerging before the projection, as the authors' code does: {before / 1e9:.2f}",
        f"not counted: {macs.widening / 1e9:.2f} more that our attention executes for the relative position",
    ]


def _giga(value: int) -> str:
    return f"{value / 1e9:.3f}" if value else "-"
