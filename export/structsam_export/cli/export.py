"""Export SAM with token merging: verified ONNX graphs, engines, and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime.cli.console import FAILED
from structsam_runtime.errors import NotFiniteError, UserError

from ..choices import Attention, Channels, DecoderLayout, Engine, Precision, Target
from ..merging.registry import DEFAULT as DEFAULT_METHOD
from ..merging.registry import METHODS, MethodSpec
from ..models.architectures import ARCHITECTURES, DEFAULT
from ..models.family import FAMILIES

WEIGHTS, MERGING, OUTPUT = "Model", "Merging", "Output"


def _list_methods(wanted: bool) -> None:
    """Print the methods with their options, and exit."""
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
        str | None,
        typer.Option(
            help=f"{', '.join(ARCHITECTURES)}. Default: the checkpoint's, else {DEFAULT}.",
            rich_help_panel=WEIGHTS,
            metavar="NAME",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Your own SAM or fine-tune, file or folder. Default: shipped or Meta's, downloaded.",
            rich_help_panel=WEIGHTS,
            metavar="PATH",
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Seeded random weights; no download.", rich_help_panel=WEIGHTS),
    ] = False,
    family: Annotated[
        str,
        typer.Option(
            help=f"What weights were trained as: {' or '.join(FAMILIES)}. Default: sam.",
            rich_help_panel=WEIGHTS,
            metavar="NAME",
        ),
    ] = "",
    image_size: Annotated[
        int,
        typer.Option(
            help="Side of the input in pixels; 0: the size of the architecture.",
            rich_help_panel=WEIGHTS,
            metavar="INT",
        ),
    ] = 0,
    method: Annotated[
        str,
        # Names are in the help text: as choices beside the option they would take half of the line.
        typer.Option(
            help=f"{', '.join(METHODS)}. With options: adjacent:reduction=replace.",
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
            help="Share of tokens removed, 0 to 0.75. Default: 0.55, prompt-aware 0.35.",
            rich_help_panel=MERGING,
            metavar="FLOAT",
        ),
    ] = None,
    rate_window: Annotated[
        float | None,
        typer.Option(help="Rate of window blocks.", rich_help_panel=MERGING, metavar="FLOAT"),
    ] = None,
    rate_global: Annotated[
        float | None,
        typer.Option(help="Rate of global blocks.", rich_help_panel=MERGING, metavar="FLOAT"),
    ] = None,
    prompt_aware: Annotated[
        bool,
        typer.Option(
            "--prompt-aware",
            help="Merge less in the windows of prompts: --rate applies there.",
            rich_help_panel=MERGING,
        ),
    ] = False,
    rate_background: Annotated[
        float | None,
        typer.Option(
            help="Rate elsewhere, with --prompt-aware. Default: 0.75.",
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
        typer.Option(help="Blocks without merging: 0,1,5.", rich_help_panel=MERGING, metavar="LIST"),
    ] = "",
    merge_mlp: Annotated[
        bool,
        typer.Option("--merge-mlp", help="Run the MLP on merged tokens too.", rich_help_panel=MERGING),
    ] = False,
    plan_every: Annotated[
        int,
        typer.Option(help="One plan for N blocks of the same kind.", rich_help_panel=MERGING, metavar="INT"),
    ] = 1,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Settings of each block, instead of the options above.",
            rich_help_panel=MERGING,
            metavar="FILE.json",
        ),
    ] = None,
    channels: Annotated[
        Channels | None,
        typer.Option(help="Score tokens on all channels or the mean over heads.", rich_help_panel=MERGING),
    ] = None,
    cell: Annotated[
        int | None, typer.Option(help="Side of a cell, in tokens.", rich_help_panel=MERGING, metavar="INT")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of all random choices.", rich_help_panel=MERGING, metavar="INT")
    ] = 0,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help=f"{', '.join(one for one in Precision if '-' not in one)}. Default: fp32.",
            rich_help_panel=OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="fp16; sensitive parts stay in fp32.", rich_help_panel=OUTPUT)
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Linear layers in 8 bits; with --fp16, the rest is fp16.", rich_help_panel=OUTPUT
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Calibrate 8 bits on these photographs; 8 are enough.", rich_help_panel=OUTPUT, metavar="DIR"
        ),
    ] = None,
    int8_skip: Annotated[
        str,
        typer.Option(
            help="Layers to leave in float: blocks.0.fc2,*.qkv or auto.",
            rich_help_panel=OUTPUT,
            metavar="LIST",
        ),
    ] = "",
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Any number of images per call.", rich_help_panel=OUTPUT)
    ] = False,
    decoder_layout: Annotated[
        DecoderLayout | None,
        typer.Option(
            help=f"Also a decoder for tools that take Meta's: {' or '.join(DecoderLayout)}.",
            rich_help_panel=OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help=f"{', '.join(Target)}. Default: that of --engine, or cpu.",
            rich_help_panel=OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    attention: Annotated[
        Attention | None,
        typer.Option(
            help=f"{', '.join(Attention)}. Default: that of the target.",
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
            help="Library of CUDA plugins; see plugins/README.md.",
            rich_help_panel=OUTPUT,
            metavar="LIBRARY",
        ),
    ] = None,
    plugin_graph: Annotated[
        bool,
        typer.Option(
            "--plugin-graph", help="Also a graph for structsam build --plugins.", rich_help_panel=OUTPUT
        ),
    ] = False,
    verify_images: Annotated[
        Path | None,
        typer.Option(
            help="Verify on these photographs; three go into the export.",
            rich_help_panel=OUTPUT,
            metavar="DIR",
        ),
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
        bool, typer.Option("--force", help="Replace an existing export.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Export SAM with token merging: ONNX encoder and decoder, verified against PyTorch, with a manifest.

    Example: structsam export --arch vit_b --rate 0.55 --fp16
    """
    # PyTorch takes seconds to import; --help and usage errors do not need it.
    from structsam_runtime.build import BuildError
    from structsam_runtime.progress import Progress

    from ..config import ExportConfig
    from ..models.checkpoints import architecture_named
    from ..pipeline import LintError, VerificationError, export, summary
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
        arch=architecture_named(arch, checkpoint),
        checkpoint=checkpoint,
        random_weights=random_weights,
        family=family,
        merging=Recipe.read(recipe) if recipe else Uniform.typed(spec, **flags),
        seed=seed,
        image_size=image_size,
        precision=_precision(precision, fp16, int8),
        calibrate=calibrate,
        int8_skip=tuple(part.strip() for part in int8_skip.split(",") if part.strip()),
        dynamic_batch=dynamic_batch,
        decoder_layout=decoder_layout,
        target=target,
        attention=attention,
        engine=engine,
        plugins=plugins,
        plugin_graph=plugin_graph,
    )
    try:
        folder = output or Path("out") / config.name
        made = export(config, folder, verify_images, force, Progress(), triton_repository)
    except (LintError, VerificationError, NotFiniteError, BuildError) as error:
        typer.echo(UserError(f"failed: {error}; nothing was written"), err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(summary(made))


def _precision(named: Precision | None, fp16: bool, int8: bool) -> Precision:
    """The precision that `--precision`, `--fp16` and `--int8` select."""
    flags = {one for one, given in ((Precision.FP16, fp16), (Precision.INT8, int8)) if given}
    asked = flags | ({named} if named else set())
    for one in Precision:
        if asked <= {one, *one.parts}:
            return one
    typed = " and ".join(f"--{one}" for one in sorted(flags))
    raise UserError(f"{typed} and --precision {named} exclude each other; give one of them")


def _refuse_beside_recipe(flags: dict[str, Any]) -> None:
    """Raise UserError for flags that the recipe file replaces."""
    # A rate of 0 is given too.
    given = [name for name, value in flags.items() if value or (value == 0 and value is not False)]
    if given:
        typed = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--recipe defines every block; leave {typed} out")


def _blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(
            f"--skip-blocks {text} is not a list of block numbers; expected e.g. 0,1,5"
        ) from error
