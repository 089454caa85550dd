"""Time exported encoders side by side, in one run.

python scripts/benchmark.py OUT [OUT ...] --rival meta -o benchmarks/cpu.json
"""

import json
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from structsam_runtime import Manifest, OnnxRuntimeRunner, Predictor, UserError
from structsam_runtime.console import run
from structsam_runtime.image import prepare, read_image
from structsam_runtime.machine import cores, gpus, processor
from structsam_runtime.prior import prior
from structsam_runtime.prompts import encode
from structsam_runtime.runners import RUNNERS, create
from structsam_runtime.runners.tensorrt import LIBRARIES, bindings
from structsam_runtime.tables import check_result, markdown, write_result

RIVAL, META = "meta", "Meta's, plain export"


def main(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Output folders of export.py.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    rival: Annotated[
        str | None,
        typer.Option(help="meta: Meta's own encoder, plainly exported, as the baseline."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 7,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    image: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Default: a photograph that scikit-image ships.")
    ] = None,
) -> None:
    """Interleaved repetitions of every encoder on one photograph; medians, minima, ratios to the first."""
    if rival not in (None, RIVAL):
        raise UserError(f"--rival {rival} is unknown; expected {RIVAL}")
    if rival and runner in LIBRARIES:
        raise UserError(f"--rival {rival} is an ONNX file, which {runner} does not run; leave it out")
    check_result(output)
    names = [out.resolve().name for out in outs]
    if len(set(names)) != len(names):
        raise UserError(f"two of the exports have the same folder name: {', '.join(names)}; rename one")
    manifests = [Manifest.read(out) for out in outs]
    if len({(known.model.arch, known.model.image_size) for known in manifests}) != 1:
        raise UserError("the exports differ in architecture or image size; benchmark one kind per run")
    picture = read_image(image) if image else _photograph()
    tensor, _ = prepare(picture, manifests[0].model)
    encoders = {name: create(out, "encoder", runner) for name, out in zip(names, outs, strict=True)}
    inputs = {"image": tensor, "prior": prior(manifests[0].model)}  # without prompts: the time is the same
    with ExitStack() as stack:
        if rival:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            plain = OnnxRuntimeRunner(_meta(manifests[0], folder / "meta.onnx"), runner)
            encoders = {META: plain, **encoders}
        runners = {name: stack.enter_context(encoder) for name, encoder in encoders.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for turn in track(range(repeat + 1), description="timing", transient=True):
            for name, encoder in runners.items():
                feeds = {wanted: inputs[wanted] for wanted in encoder.inputs}
                start = time.perf_counter()
                encoder.infer(feeds)
                if turn:  # the first is a warm-up
                    seconds[name].append(time.perf_counter() - start)
    many = _many_prompts(outs[0], picture, runner)
    told = {name: _told(out) for name, out in zip(names, outs, strict=True)}
    baseline = {META: {"gmac": told[names[0]]["gmac_unmerged"]}} if rival else {}
    result = {
        "machine": _machine(runner),
        "repeat": repeat,
        "encoders": _rows(seconds, baseline | told),
        "decoder": many,
    }
    table = _table(result)
    write_result(output, result, table)
    typer.echo(table)


def _photograph() -> Any:
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise UserError("scikit-image is not installed; give a photograph with --image") from error
    photograph: Any = data.coffee  # untyped
    return photograph()


def _meta(known: Manifest, path: Path) -> Path:
    """Meta's encoder, unpatched, as anyone would export it. Random weights: they do not change the time."""
    try:
        import torch

        from structsam_export.checkpoints import load_sam
        from structsam_export.graph.trace import quiet
    except ModuleNotFoundError as error:
        raise UserError(f'--rival {RIVAL} needs {error.name}; pip install -e ".[export,cpu]"') from error
    sam = load_sam(known.model.arch, known.model.image_size, None, random_weights=True)
    image = torch.zeros(1, 3, known.model.image_size, known.model.image_size)
    with quiet():
        torch.onnx.export(
            sam.image_encoder, (image,), path, input_names=["image"], dynamo=True, verbose=False
        )
    return path


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


def _rows(seconds: dict[str, list[float]], told: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Median, spread and minimum of each, and its ratio to the first, by medians and by minima."""
    first = next(iter(seconds.values()))
    return [
        {
            "name": name,
            **told[name],
            "median_s": round(statistics.median(times), 4),
            "min_s": round(min(times), 4),
            "max_s": round(max(times), 4),
            "ratio_median": round(statistics.median(times) / statistics.median(first), 4),
            "ratio_min": round(min(times) / min(first), 4),
            "seconds": [round(value, 4) for value in times],
        }
        for name, times in seconds.items()
    ]


def _machine(runner: str) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": cores(),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "library": _library(runner),
        "runner": runner,
    }


def _library(runner: str) -> str:
    """What runs the encoders, and its version."""
    if runner in LIBRARIES:
        return f"{runner} {bindings(runner).__version__}"
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}"


def _table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    where = ", ".join([machine["processor"], f"{machine['cores']} cores", *machine["gpus"]])
    head = (
        f"{where}, {machine['library']} ({machine['runner']}), {machine['date']}, "
        f"{result['repeat']} interleaved runs"
    )
    columns = [
        "encoder",
        "GMAC",
        "median s",
        "min s",
        "time by medians",
        "by minima",
        "same merges",
        "mask IoU",
    ]
    rows = [
        [
            row["name"],
            f"{row['gmac']:.1f}",
            f"{row['median_s']:.2f}",
            f"{row['min_s']:.2f}",
            f"{row['ratio_median']:.2f}",
            f"{row['ratio_min']:.2f}",
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
    return f"{head}\n\n{markdown([columns, *rows])}\n\n{tail}\n"


if __name__ == "__main__":
    run(main)
