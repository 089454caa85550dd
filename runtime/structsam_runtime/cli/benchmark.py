"""Time exported encoders and their rivals side by side, in one run.

structsam benchmark OUT [OUT ...] --rival meta --rival sdpa -o benchmarks/cpu.json
structsam benchmark OUT [OUT ...] --rival meta --runner cpu --runner openvino -o benchmarks/cpu.json
"""

from pathlib import Path
from typing import Annotated

import typer

from ..benchmarking.race import race
from ..benchmarking.report import table
from ..benchmarking.tables import check_result, write_result
from ..files import check_output
from ..pictures import read_image
from ..runners import RUNNERS


def main(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Output folders of structsam export.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help="Meta's own encoder to compare with; again for more: meta (plainly exported), meta-fused "
            "(exported with fused attention), meta-int8 (8 bits by nncf, in OpenVINO), eager, sdpa and "
            "compile (PyTorch)."
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 7,
    runner: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(RUNNERS)}; again for more: each runs every export. Default: cpu."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Default: a photograph that scikit-image ships.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the times.")] = None,
) -> None:
    """Interleaved repetitions of every encoder on one photograph; medians, minima, ratios to the first."""
    check_result(output)
    if plot:
        check_output(plot)
        from ..benchmarking.bars import draw  # needs Matplotlib, which is told before anything is timed
    result = race(outs, rival or [], read_image(image) if image else None, repeat, runner or ["cpu"])
    text = table(result)
    write_result(output, result, text)
    if plot:
        draw(result, plot)
    typer.echo(text)
