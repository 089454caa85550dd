"""Build the engines of an export on the device that runs them, without PyTorch and ONNX.

structsam build OUT --engine tensorrt
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..build import TENSORRT, BuildError, EngineBuilder
from ..engines import Part, add_engines, parts_of
from ..errors import UserError, printable
from ..predict.decoding import PROMPTS
from ..progress import Progress
from ..runners.tensorrt import LIBRARIES
from .console import FAILED


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of structsam export.")],
    engine: Annotated[str, typer.Option(metavar="NAME", help=f"{' or '.join(LIBRARIES)}.")],
    max_prompts: Annotated[
        int, typer.Option(min=1, max=1024, metavar="INT", help="The most prompts of one run of the decoder.")
    ] = PROMPTS,
    workspace: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, metavar="MIB", help="GPU memory for a layer. Default: all."),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keeps times of kernels, so that later builds are faster."),
    ] = None,
    plugins: Annotated[
        Path | None, typer.Option(metavar="LIBRARY", help="Library of CUDA plugins; see plugins/README.md.")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Build from .onnx files that you changed.")
    ] = False,
    print_trtexec: Annotated[
        bool, typer.Option("--print-trtexec", help="Print the commands of trtexec instead, and exit.")
    ] = False,
) -> None:
    """Build encoder.engine and decoder.engine of an export, in its precision and with TF32 off.

    An engine runs with the version of the library that built it; one of TensorRT only on the same GPU model.
    Until both are built, the export stays as it is.
    """
    if print_trtexec:
        if engine != TENSORRT:
            raise UserError(f"--print-trtexec needs --engine {TENSORRT}; {engine} is not built by trtexec")
        for name, part in parts_of(out, max_prompts, plugins is not None).items():
            typer.echo(_trtexec(out, name, part, workspace, timing_cache, plugins))
        return
    builder = EngineBuilder(engine, plugins, workspace, timing_cache)
    try:
        record = add_engines(out, builder, Progress(), max_prompts, not unverified)
    except BuildError as error:
        typer.echo(UserError(f"failed: {error}; the export is as it was"), err=True)
        raise typer.Exit(FAILED) from error
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}; the export is as it was"
        ) from error
    gpus = record["gpu"] or f"compute capability {', '.join(record['capabilities'])}"
    typer.echo(f"{printable(str(out))}: engines of {engine} {record['version']} for {printable(gpus)}")
    typer.echo(f"next: structsam check {shlex.quote(str(out))} --runner {engine}")


def _trtexec(
    out: Path, name: str, part: Part, workspace: int | None, timing_cache: Path | None, plugins: Path | None
) -> str:
    """The command that builds the same engine, into the folder where it is typed."""
    words = ["trtexec", f"--onnx={out / part.graph}", f"--saveEngine={name}.engine"]
    words += ["--stronglyTyped", "--noTF32"]
    for index, which in enumerate(("min", "opt", "max")):
        shapes = [f"{tensor}:{'x'.join(map(str, ends[index]))}" for tensor, ends in part.profile.items()]
        words += [f"--{which}Shapes={','.join(shapes)}"] if shapes else []
    words += [f"--memPoolSize=workspace:{workspace}"] if workspace else []
    words += [f"--timingCacheFile={timing_cache}"] if timing_cache else []
    words += [f"--dynamicPlugins={plugins}"] if plugins else []
    return shlex.join(words)
