"""Count the multiply-accumulates of an encoder block by block, without weights and without running it.

structsam macs --arch vit_b --method structsam --rate 0.55
structsam macs --preset paper-flops          # the settings that explain the paper's 347.8 GFLOPs
structsam macs --table-5                     # the paper's Table 5
"""

from typing import Annotated

import torch
import typer
from rich.console import Console

from structsam_runtime import UserError

from ..analysis.macs import encoder_macs, table_5
from ..analysis.price import breakdown, totals
from ..choices import Channels, StrEnum
from ..config import ExportConfig
from ..description import PLACES, merging
from ..merging.registry import DEFAULT, METHODS, MethodSpec
from ..models.architectures import ARCHITECTURES
from ..models.checkpoints import build_sam
from ..pipeline import patch
from ..recipe import Uniform

PUBLISHED = "bipartite"
"""The method of the authors' code."""


class Preset(StrEnum):
    """Named settings that reproduce numbers of the paper."""

    PAPER_FLOPS = "paper-flops"


def main(
    arch: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURES)}.")] = "vit_b",
    method: Annotated[
        str | None, typer.Option(help=f"{', '.join(METHODS)}. With options: tome:reduction=replace.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Share of tokens removed, 0 to 0.75. Default: 0.55, with --prompt-aware 0.35."),
    ] = None,
    prompt_aware: Annotated[
        bool, typer.Option("--prompt-aware", help="--rate applies to the windows of a prompt.")
    ] = False,
    rate_background: Annotated[
        float | None, typer.Option(help="With --prompt-aware, the rate elsewhere. Default: 0.75.")
    ] = None,
    prompt_windows: Annotated[
        int | None, typer.Option(help="With --prompt-aware, the windows at --rate. Default: 2.")
    ] = None,
    channels: Annotated[Channels | None, typer.Option(help="Score tokens on these channels.")] = None,
    merge_mlp: Annotated[bool, typer.Option("--merge-mlp", help="Run the MLP on merged tokens too.")] = False,
    plan_every: Annotated[int, typer.Option(help="One plan for N blocks of the same kind.")] = 1,
    preset: Annotated[
        Preset | None,
        typer.Option(help="paper-flops: the authors' code, block 0 unmerged, counted as in the paper."),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table-5", help="Print the paper's Table 5 instead: the cost of the plan.")
    ] = False,
) -> None:
    """Count the multiply-accumulates of an image encoder at its default size, as the paper does, in 10^9."""
    console = Console(width=150)
    if table:
        for price in table_5():
            console.print(f"{price.kind:<8}{price.method:<26}{price.macs / 1e9:.4f}")
        return
    if preset and method:
        raise UserError(f"--preset {preset} is for --method {PUBLISHED}; leave --method out")
    config = ExportConfig(
        arch,
        merging=Uniform.typed(
            MethodSpec.parse(PUBLISHED if preset else method or DEFAULT).having(channels=channels),
            rate=rate,
            prompt_aware=prompt_aware,
            prompt_windows=prompt_windows,
            rate_background=rate_background,
            skip_blocks=(0,) if preset else (),
            merge_mlp=merge_mlp,
            plan_every=plan_every,
        ),
    )
    with torch.device("meta"):
        encoder = build_sam(arch).image_encoder
    patch(config, encoder)
    macs = encoder_macs(encoder)
    console.print(breakdown(macs))
    removed = {kind: counts["effective_rate"] for kind, counts in merging(encoder).items()}
    told = ", ".join(f"{share:.1%} in {PLACES[kind]}" for kind, share in removed.items())
    console.print(f"tokens removed: {told or 'none'}", highlight=False)
    for line in totals(macs):
        console.print(line, highlight=False)
    if preset:
        console.print(f"counted as in the paper: {macs.as_published / 1e9:.2f}", highlight=False)
