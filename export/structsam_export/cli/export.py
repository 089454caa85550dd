"""Export a SAM whose image encoder merges tokens: ONNX, engines, a manifest, all verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structsam_runtime.cli.console import FAILED
from structsam_runtime.errors import UserError

from ..choices import (
    Attention,
    Border,
    Channels,
    Destination,
    Engine,
    Flatness,
    Gradient,
    MethodName,
    Place,
    Reduction,
    Scope,
    Selection,
    Target,
)
from ..models.architectures import ARCHITECTURES, DEFAULT

WEIGHTS, MERGING, OUTPUT = "Model", "Merging", "Output"
ABLATION = "Ablations (default: the method's own)"


def main(
    arch: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(ARCHITECTURES)}; the first needs no download.", rich_help_panel=WEIGHTS
        ),
    ] = DEFAULT,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Your own SAM, MedSAM or fine-tune. Default: vit_nano's shipped, Meta's downloaded.",
            rich_help_panel=WEIGHTS,
            metavar="PATH",
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Seeded random weights; no download.", rich_help_panel=WEIGHTS),
    ] = False,
    image_size: Annotated[
        int,
        typer.Option(
            help="Pixels along the side of the input; 0 is the architecture's own.",
            rich_help_panel=WEIGHTS,
            metavar="INT",
        ),
    ] = 0,
    method: Annotated[
        MethodName,
        # Names in the help: beside the option they would leave it half of the line.
        typer.Option(help=f"{', '.join(MethodName)}.", rich_help_panel=MERGING, metavar="NAME"),
    ] = MethodName.STRUCTSAM,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Share removed, 0 to 0.75 (0.55; prompt-aware: 0.35).",
            rich_help_panel=MERGING,
            metavar="FLOAT",
        ),
    ] = None,
    rate_window: Annotated[
        float | None,
        typer.Option(help="The same for window blocks.", rich_help_panel=MERGING, metavar="FLOAT"),
    ] = None,
    rate_global: Annotated[
        float | None,
        typer.Option(help="The same for global blocks.", rich_help_panel=MERGING, metavar="FLOAT"),
    ] = None,
    prompt_aware: Annotated[
        bool,
        typer.Option(
            "--prompt-aware",
            help="Take a prior of prompts: --rate is for windows there.",
            rich_help_panel=MERGING,
        ),
    ] = False,
    rate_background: Annotated[
        float | None,
        typer.Option(
            help="Of all else, with --prompt-aware. Default: 0.75.",
            rich_help_panel=MERGING,
            metavar="FLOAT",
        ),
    ] = None,
    prompt_windows: Annotated[
        int | None,
        typer.Option(
            help="Windows at --rate, with --prompt-aware. Default: 2.",
            rich_help_panel=MERGING,
            metavar="INT",
        ),
    ] = None,
    skip_blocks: Annotated[
        str,
        typer.Option(help="Blocks that do not merge, as 0,1,5.", rich_help_panel=MERGING, metavar="LIST"),
    ] = "",
    merge_mlp: Annotated[
        bool,
        typer.Option("--merge-mlp", help="Merge for the MLP too.", rich_help_panel=MERGING),
    ] = False,
    plan_every: Annotated[
        int,
        typer.Option(
            help="Decide once for so many blocks of a kind.", rich_help_panel=MERGING, metavar="INT"
        ),
    ] = 1,
    reduction: Annotated[
        Reduction | None,
        typer.Option(help="Merged tokens become their mean, or one of them.", rich_help_panel=MERGING),
    ] = None,
    channels: Annotated[
        Channels | None,
        typer.Option(help="Judge tokens by all channels or the mean over heads.", rich_help_panel=MERGING),
    ] = None,
    cell: Annotated[
        int | None, typer.Option(help="Tokens along a cell's side.", rich_help_panel=ABLATION, metavar="INT")
    ] = None,
    gradient: Annotated[Gradient | None, typer.Option(rich_help_panel=ABLATION)] = None,
    scope: Annotated[
        Scope | None, typer.Option(help="What the gradient is taken over.", rich_help_panel=ABLATION)
    ] = None,
    border: Annotated[
        Border | None, typer.Option(help="What lies around it.", rich_help_panel=ABLATION)
    ] = None,
    flatness: Annotated[Flatness | None, typer.Option(rich_help_panel=ABLATION)] = None,
    selection: Annotated[Selection | None, typer.Option(rich_help_panel=ABLATION)] = None,
    destination: Annotated[Destination | None, typer.Option(rich_help_panel=ABLATION)] = None,
    place: Annotated[
        Place | None, typer.Option(help="Where attention sees a merged cell.", rich_help_panel=ABLATION)
    ] = None,
    proportional: Annotated[
        bool,
        typer.Option("--proportional", help="Attention counts every merged token.", rich_help_panel=ABLATION),
    ] = False,
    no_proportional: Annotated[
        bool, typer.Option("--no-proportional", help="Turns that off for adjacent.", rich_help_panel=ABLATION)
    ] = False,
    spread: Annotated[
        float | None,
        typer.Option(help="Hybrid's: how many cells may merge.", rich_help_panel=ABLATION, metavar="FLOAT"),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="PiToMe's, of block 0.", rich_help_panel=ABLATION, metavar="FLOAT")
    ] = None,
    no_cells: Annotated[
        bool, typer.Option("--no-cells", help="Merge the calmest tokens anywhere.", rich_help_panel=ABLATION)
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of everything random.", rich_help_panel=ABLATION, metavar="INT")
    ] = 0,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Half precision, sensitive parts in fp32.", rich_help_panel=OUTPUT)
    ] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Any number of images a call.", rich_help_panel=OUTPUT)
    ] = False,
    target: Annotated[
        Target | None,
        typer.Option(
            help=f"Graph for {', '.join(Target)}.",
            rich_help_panel=OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    attention: Annotated[
        Attention | None,
        typer.Option(
            help=f"{', '.join(Attention)}; default: the target's.",
            rich_help_panel=OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help=f"Build engines too: {' or '.join(Engine)}.", rich_help_panel=OUTPUT, metavar="NAME"
        ),
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(
            help="With plugins: plugins/README.md.",
            rich_help_panel=OUTPUT,
            metavar="LIBRARY",
        ),
    ] = None,
    verify_images: Annotated[
        Path | None,
        typer.Option(help="Verify on these photographs.", rich_help_panel=OUTPUT, metavar="DIR"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Default: out/ARCH-METHOD-rRATE-PRECISION.",
            rich_help_panel=OUTPUT,
            metavar="DIR",
        ),
    ] = None,
    triton_repository: Annotated[
        Path | None,
        typer.Option(help="Also write models for Triton.", rich_help_panel=OUTPUT, metavar="DIR"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an export that is there.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Export a SAM whose image encoder merges tokens: ONNX encoder and decoder, verified, with a manifest.

    Example: structsam export --arch vit_b --rate 0.55 --fp16
    """
    # PyTorch takes seconds to import, which --help and mistakes in typing need not wait for.
    from ..comparing import NotFiniteError
    from ..config import ExportConfig
    from ..engine import EngineError
    from ..pipeline import LintError, VerificationError, export, summary
    from ..progress import Progress
    from ..rates import merge_rates

    config = ExportConfig(
        arch=arch,
        checkpoint=checkpoint,
        random_weights=random_weights,
        method=method,
        **merge_rates(rate, rate_window, rate_global, prompt_aware, prompt_windows, rate_background),
        skip_blocks=_blocks(skip_blocks),
        merge_mlp=merge_mlp,
        plan_every=plan_every,
        cell=cell,
        channels=channels,
        gradient=gradient,
        scope=scope,
        border=border,
        flatness=flatness,
        selection=selection,
        cells=False if no_cells else None,
        spread=spread,
        destination=destination,
        place=place,
        reduction=reduction,
        proportional=_switch("proportional", proportional, no_proportional),
        margin=margin,
        seed=seed,
        image_size=image_size,
        fp16=fp16,
        dynamic_batch=dynamic_batch,
        target=target,
        attention=attention,
        engine=engine,
        plugins=plugins,
    )
    try:
        folder = output or Path("out") / config.name
        made = export(config, folder, verify_images, force, Progress(), triton_repository)
    except (LintError, VerificationError, NotFiniteError, EngineError) as error:
        typer.echo(f"failed: {error}; nothing was written", err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(summary(made))


def _switch(option: str, on: bool, off: bool) -> bool | None:
    """True or False, or None where neither flag was given and the method decides."""
    if on and off:
        raise UserError(f"--{option} and --no-{option} exclude each other; give one of them")
    return on if on or off else None


def _blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"--skip-blocks {text} is no list of block numbers; expected e.g. 0,1,5") from error
