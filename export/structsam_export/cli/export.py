"""Export a SAM whose image encoder merges tokens: ONNX, engines, a manifest, all verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime.cli.console import FAILED
from structsam_runtime.errors import UserError

from ..choices import Attention, Channels, Engine, Precision, Target
from ..merging.registry import DEFAULT as DEFAULT_METHOD
from ..merging.registry import METHODS, MethodSpec
from ..models.architectures import ARCHITECTURES, DEFAULT

WEIGHTS, MERGING, OUTPUT = "Model", "Merging", "Output"


def _list_methods(wanted: bool) -> None:
    """Print the methods, and end the command."""
    if not wanted:
        return
    for own in METHODS.values():
        typer.echo(f"{own.name}: {own.label}")
        for option in own.options:
            typer.echo(
                f"  {own.name}:{option.name}={option.text(option.default)} ({option.expected}) {option.help}"
            )
    raise typer.Exit


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
        str,
        # Names in the help: beside the option they would leave it half of the line.
        typer.Option(
            help=f"{', '.join(METHODS)}; with options: adjacent:reduction=replace.",
            rich_help_panel=MERGING,
            metavar="NAME",
        ),
    ] = DEFAULT_METHOD,
    methods: Annotated[
        bool,
        typer.Option(
            "--methods",
            help="List the methods with their options, and exit.",
            rich_help_panel=MERGING,
            is_eager=True,
            callback=_list_methods,
        ),
    ] = False,
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
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="What each block does, instead of the options above.",
            rich_help_panel=MERGING,
            metavar="FILE.json",
        ),
    ] = None,
    channels: Annotated[
        Channels | None,
        typer.Option(help="Judge tokens by all channels or the mean over heads.", rich_help_panel=MERGING),
    ] = None,
    cell: Annotated[
        int | None, typer.Option(help="Tokens along a cell's side.", rich_help_panel=MERGING, metavar="INT")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of everything random.", rich_help_panel=MERGING, metavar="INT")
    ] = 0,
    precision: Annotated[
        Precision | None,
        typer.Option(help="fp32 (the default) or fp16.", rich_help_panel=OUTPUT, metavar="NAME"),
    ] = None,
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
    from ..engine import BuildError
    from ..pipeline import LintError, VerificationError, export, summary
    from ..progress import Progress
    from ..recipe import Recipe, Uniform

    flags: dict[str, Any] = {
        "rate": rate,
        "rate_window": rate_window,
        "rate_global": rate_global,
        "prompt_aware": prompt_aware,
        "prompt_windows": prompt_windows,
        "rate_background": rate_background,
        "skip_blocks": _blocks(skip_blocks),
        "merge_mlp": merge_mlp,
        "plan_every": plan_every,
    }
    spec = MethodSpec.parse(method).having(cell=cell, channels=channels)
    if recipe:
        _refuse_beside_recipe(
            {"method": spec != MethodSpec(DEFAULT_METHOD), **flags, "plan_every": plan_every > 1}
        )
    config = ExportConfig(
        arch=arch,
        checkpoint=checkpoint,
        random_weights=random_weights,
        merging=Recipe.read(recipe) if recipe else Uniform.typed(spec, **flags),
        seed=seed,
        image_size=image_size,
        precision=_precision(precision, fp16),
        dynamic_batch=dynamic_batch,
        target=target,
        attention=attention,
        engine=engine,
        plugins=plugins,
    )
    try:
        folder = output or Path("out") / config.name
        made = export(config, folder, verify_images, force, Progress(), triton_repository)
    except (LintError, VerificationError, NotFiniteError, BuildError) as error:
        typer.echo(UserError(f"failed: {error}; nothing was written"), err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(summary(made))


def _precision(named: Precision | None, fp16: bool) -> Precision:
    """What `--precision` and `--fp16` come to."""
    if fp16 and named not in (None, Precision.FP16):
        raise UserError(f"--fp16 and --precision {named} exclude each other; give one of them")
    return Precision.FP16 if fp16 else named or Precision.FP32


def _refuse_beside_recipe(flags: dict[str, Any]) -> None:
    """Refuse flags that a recipe file says already."""
    # A rate of 0 is a flag too.
    given = [name for name, value in flags.items() if value or (value == 0 and value is not False)]
    if given:
        typed = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--recipe says what every block does; leave {typed} out")


def _blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"--skip-blocks {text} is no list of block numbers; expected e.g. 0,1,5") from error
