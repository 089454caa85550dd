"""Time exported encoders and their rivals side by side, in one run.

structsam benchmark OUT [OUT ...] --rival meta --rival sdpa -o benchmarks/cpu.json
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from .. import Manifest, Predictor, UserError
from ..benchmarking.profile import operators
from ..benchmarking.tables import check_result, markdown, write_result
from ..benchmarking.timing import as_row, conditions, environment, footprint, interleaved, spread
from ..files import check_output
from ..predict.image import prepare, read_image
from ..predict.prior import prior
from ..predict.prompts import encode
from ..runners import RUNNERS, create
from ..runners.base import Array, Runner
from ..runners.onnxruntime import OnnxRuntimeRunner

Contestants = Mapping[str, Callable[[], Runner]]
SHOWN = 8
"""Operators of which the table tells each; the others together."""


def main(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Output folders of structsam export.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help="Meta's own encoder to compare with; again for more: meta (plainly exported), meta-fused "
            "(exported with fused attention), eager, sdpa and compile (PyTorch)."
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 7,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    image: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Default: a photograph that scikit-image ships.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the times.")] = None,
) -> None:
    """Interleaved repetitions of every encoder on one photograph; medians, minima, ratios to the first."""
    check_result(output)
    if plot:
        check_output(plot)
        _require_matplotlib()
    names = _names(outs)
    manifests = [Manifest.read(out) for out in outs]
    if len({(known.model.arch, known.model.image_size) for known in manifests}) != 1:
        raise UserError("the exports differ in architecture or image size; benchmark one kind per run")
    picture = read_image(image) if image else _photograph()
    tensor, _ = prepare(picture, manifests[0].model)
    inputs = {"image": tensor, "prior": prior(manifests[0].model)}  # without prompts: the time is the same
    told = {name: _told(out) for name, out in zip(names, outs, strict=True)}
    ours = {name: partial(create, out, "encoder", runner) for name, out in zip(names, outs, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        rivals = _rivals(rival or [], manifests[0], Path(folder), runner)
        contestants: Contestants = {**rivals, **ours}
        seconds, feeds = _times(contestants, inputs, repeat)
        memory = {
            name: as_row(footprint(make, feeds[name], runner != "cpu")) for name, make in contestants.items()
        }
        profile = _profile(contestants, feeds, runs=min(repeat, 3))
    first = next(iter(seconds.values()))
    facts = {name: {"gmac": told[names[0]]["gmac_unmerged"]} for name in rivals} | told
    result = {
        "machine": environment(runner),
        "repeat": repeat,
        "encoders": [
            {"name": name, **facts[name], **spread(times, first), **memory[name]}
            for name, times in seconds.items()
        ],
        "operators": profile,
        "decoder": _many_prompts(outs[0], picture, runner),
    }
    table = _table(result)
    write_result(output, result, table)
    if plot:
        _plot(result, plot)
    typer.echo(table)


def _names(outs: list[Path]) -> list[str]:
    """What the exports are called: their folders."""
    for out in outs:
        if out.suffix == ".json":
            raise UserError(
                f"{out} is the result of another run, whose times do not compare with those of this one; "
                "give the folders of all exports, and they are timed together"
            )
    names = [out.resolve().name for out in outs]
    if len(set(names)) != len(names):
        raise UserError(f"two of the exports have the same folder name: {', '.join(names)}; rename one")
    return names


def _photograph() -> Any:
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise UserError("scikit-image is not installed; give a photograph with --image") from error
    photograph: Any = data.coffee  # untyped
    return photograph()


def _rivals(chosen: list[str], known: Manifest, folder: Path, runner: str) -> dict[str, Callable[[], Runner]]:
    """Meta's own encoder, unpatched, in the forms that are asked for."""
    if not chosen:
        return {}
    try:
        from structsam_export.rivals import Rival, rival
    except ModuleNotFoundError as error:
        raise UserError(f'--rival needs {error.name}; pip install "structsam[export,cpu]"') from error
    if unknown := set(chosen) - set(Rival):
        raise UserError(f"--rival {', '.join(unknown)} is unknown; expected one of {', '.join(Rival)}")
    return {Rival(which).label: rival(Rival(which), known.model, folder, runner) for which in chosen}


def _times(
    contestants: Contestants, inputs: Mapping[str, Array], repeat: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, Array]]]:
    """Seconds of every run, interleaved, and what each was given."""
    with ExitStack() as stack:
        runners = {name: stack.enter_context(make()) for name, make in contestants.items()}
        feeds = {name: {key: inputs[key] for key in runner.inputs} for name, runner in runners.items()}
        calls = {name: partial(runner.infer, feeds[name]) for name, runner in runners.items()}
        return interleaved(calls, repeat), feeds


def _profile(
    contestants: Contestants, feeds: Mapping[str, dict[str, Array]], runs: int
) -> dict[str, dict[str, float]]:
    """Seconds by operator, of those that ONNX Runtime runs."""
    made = {name: make() for name, make in contestants.items()}
    profiles = {
        name: operators(one.path, one.provider, feeds[name], runs)
        for name, one in made.items()
        if isinstance(one, OnnxRuntimeRunner)
    }
    return {
        name: {kind: round(seconds, 5) for kind, seconds in profile.items()}
        for name, profile in profiles.items()
    }


def _many_prompts(out: Path, picture: Any, runner: str) -> dict[str, Any]:
    """Masks of 64 boxes from one call of the decoder, and from a call for each: interleaved, best of three.

    The upscaling to the size of the picture, which is the same for both, is not in it.
    """
    height, width = picture.shape[:2]
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(8) * width / 8, np.arange(8) * height / 8))
    boxes = np.stack([x, y, x + width / 8, y + height / 8], axis=1)
    one_call, calls = [], []
    with Predictor.load(out, runner) as predictor:
        predictor.set_embedding(*predictor.encode([picture]))  # once, by a prompt-aware encoder too
        asked, each = encode(predictor.frame, box=boxes), [encode(predictor.frame, box=box) for box in boxes]
        for _ in track(range(3), description="timing the decoder", transient=True):
            start = time.perf_counter()
            predictor.decode(asked)
            one_call.append(time.perf_counter() - start)
            start = time.perf_counter()
            for single in each:
                predictor.decode(single)
            calls.append(time.perf_counter() - start)
    together, apart = min(one_call), min(calls)
    return {
        "boxes": len(boxes),
        "one_call_s": round(together, 4),
        "call_for_each_s": round(apart, 4),
        "ratio": round(together / apart, 4),
    }


def _told(out: Path) -> dict[str, Any]:
    """What an export says of itself: its multiply-accumulates, and how close it is to PyTorch."""
    content = json.loads((out / "manifest.json").read_text())
    macs, verification = content["macs"], content["verification"]
    return {
        "gmac": round((macs["merged"] + macs["planning"]) / 1e9, 1),
        "gmac_unmerged": round(macs["unmerged"] / 1e9, 1),
        "mask_iou": verification["mask_iou"],
        "plans": verification["plans"],
    }


def _table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    clocks = f"Clocks: {'; '.join(machine['clocks']) or 'unknown'}"
    columns = [
        "encoder",
        "GMAC",
        "median s",
        "min to max s",
        "images/s",
        "time by medians",
        "by minima",
        "peak memory MB",
        "same merges",
        "mask IoU",
    ]
    rows = [
        [
            row["name"],
            f"{row['gmac']:.1f}",
            f"{row['median_s']:.3g}",
            f"{row['min_s']:.3g} to {row['max_s']:.3g}",
            f"{1 / row['median_s']:.3g}",
            f"{row['ratio_median']:.2f}",
            f"{row['ratio_min']:.2f}",
            _megabytes(row),
            f"{row['plans']:.2%}" if row.get("plans") is not None else "",
            f"{row['mask_iou']:.4f}" if "mask_iou" in row else "",
        ]
        for row in result["encoders"]
    ]
    many = result["decoder"]
    tail = (
        f"{many['boxes']} boxes on one picture: {many['one_call_s']:.2f} s in one call of the decoder, "
        f"{many['call_for_each_s']:.2f} s in a call for each ({many['ratio']:.2f})"
    )
    profile = [_operator_table(result["operators"])] if result["operators"] else []
    return "\n\n".join([conditions(result), clocks, markdown([columns, *rows]), *profile, tail]) + "\n"


def _megabytes(row: dict[str, Any]) -> str:
    """Peak memory of the host, and of the GPU where there is one."""
    sizes = [row["peak_host"], row["peak_device"]]
    return " + GPU ".join(f"{size / 1e6:.0f}" for size in sizes if size is not None)


def _operator_table(profile: dict[str, dict[str, float]]) -> str:
    """Seconds by operator, those that take longest in the first encoder first."""
    total: dict[str, float] = {}
    for seconds in profile.values():
        for kind, time_taken in seconds.items():
            total[kind] = total.get(kind, 0.0) + time_taken
    shown = sorted(total, key=lambda kind: -total[kind])[:SHOWN]
    rows = [["seconds by operator", *shown, "others"]]
    for name, seconds in profile.items():
        others = sum(time_taken for kind, time_taken in seconds.items() if kind not in shown)
        rows.append([name, *(f"{seconds.get(kind, 0.0):.3f}" for kind in shown), f"{others:.3f}"])
    return markdown(rows)


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError('--plot needs matplotlib; pip install "structsam[evaluate]"') from error


def _plot(result: dict[str, Any], path: Path) -> None:
    """A bar for the median of each, a line from the fastest run to the slowest."""
    from matplotlib.figure import Figure

    rows = result["encoders"][::-1]  # from the bottom up
    medians = [row["median_s"] for row in rows]
    reach = [
        [median - row["min_s"] for median, row in zip(medians, rows, strict=True)],
        [row["max_s"] - median for median, row in zip(medians, rows, strict=True)],
    ]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["name"] for row in rows], medians, xerr=reach, color="#0072B2", ecolor="black", capsize=3)
    machine = result["machine"]
    where = ", ".join([*(machine["gpus"] or [machine["processor"]]), machine["library"]])
    axes.set(xlabel="seconds per image: median, fastest to slowest run", title=where)
    figure.savefig(path, dpi=120)
