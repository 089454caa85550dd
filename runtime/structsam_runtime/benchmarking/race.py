"""Benchmark exported encoders beside rivals in one interleaved run: latency, memory, operators."""

import importlib
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ..contract import IMAGE, PRIOR
from ..errors import UserError
from ..manifest import Manifest, Model, content, entry, gmac
from ..predict.image import prepare
from ..predict.predictor import Predictor
from ..predict.prior import prior
from ..predict.prompts import encode
from ..runners import check_precision, create, kind_of
from ..runners.base import Array, Runner
from ..runners.onnxruntime import PROVIDERS, OnnxRuntimeRunner
from .profile import operators
from .timing import as_row, environment, footprint, interleaved, spread

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Contestant:
    """An encoder on a runner.

    Attributes:
        name: the name of its folder, or of the rival.
        runner: one of RUNNERS, or PYTORCH.
        on_gpu: whether it runs on a GPU.
        make: makes the runner; can be pickled.
    """

    name: str
    runner: str
    on_gpu: bool
    make: Callable[[], Runner]


PYTORCH = "pytorch"
"""What rivals run on that are not exported."""


def race(
    outs: Sequence[Path],
    rivals: Sequence[str],
    picture: NDArray[np.uint8] | None,
    repeat: int,
    runners: Sequence[str],
) -> dict[str, Any]:
    """Time encoders in turns on one photograph, rivals first, and the decoder of the first export.

    Args:
        outs: folders of exports of one architecture and image size.
        rivals: names of `structsam_export.rivals.Rival`: forms of Meta's own encoder, which need PyTorch.
        picture: uint8 RGB [H, W, 3]; by default a photograph of scikit-image.
        repeat: timed runs of each encoder.
        runners: at least one of RUNNERS; every export and every rival that is a file runs on each of them.

    Returns:
        The content of the result file, which `report.table` shows; times in seconds, memory in bytes.

    Raises:
        UserError: an export does not exist, the exports are not comparable, or a rival or a runner is
            unknown or not available.
        ModuleNotFoundError: a rival needs PyTorch, which is not installed.
    """
    names, runners = _names(outs), list(dict.fromkeys(runners))
    manifests = [Manifest.read(out) for out in outs]
    if len({(known.model.arch, known.model.image_size) for known in manifests}) != 1:
        raise UserError("the exports differ in architecture or image size; benchmark one kind per run")
    for known, runner in itertools.product(manifests, runners):
        check_precision(known.model.precision, runner)  # before anything is made
    model = manifests[0].model
    picture = _photograph() if picture is None else picture
    tensor, _ = prepare(picture, model)
    inputs = {IMAGE: tensor, PRIOR: prior(model)}  # without prompts: the latency is the same
    told = {name: _told(out) for name, out in zip(names, outs, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        others = _rivals(rivals, model, Path(folder), runners)
        contestants = [*others, *_ours(names, outs, runners)]
        seconds, feeds = _times(contestants, inputs, repeat)
        memory = {one: as_row(footprint(one.make, feeds[one], one.on_gpu)) for one in contestants}
        profile = _profile(contestants, feeds, runs=min(repeat, 3))
    first = seconds[contestants[0]]
    facts = {one.name: {"gmac": told[names[0]]["gmac_unmerged"]} for one in others} | told
    return {
        "machine": environment(*runners),
        "repeat": repeat,
        "encoders": [
            {
                "name": one.name,
                "runner": one.runner,
                **facts[one.name],
                **spread(seconds[one], first),
                **memory[one],
            }
            for one in contestants
        ],
        "operators": profile,
        "decoders": [_many_prompts(outs[0], picture, runner) for runner in runners],
    }


def _names(outs: Sequence[Path]) -> list[str]:
    """Names of the exports: those of their folders."""
    for out in outs:
        if out.suffix == ".json":
            raise UserError(
                f"{out} is a result file, and times of different runs are not comparable; "
                "give the folders of all exports to time them together"
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


def _ours(names: Sequence[str], outs: Sequence[Path], runners: Sequence[str]) -> list[Contestant]:
    """Every export on every runner."""
    return [
        Contestant(name, runner, kind_of(runner).device == "cuda", partial(create, out, "encoder", runner))
        for name, out in zip(names, outs, strict=True)
        for runner in runners
    ]


def _rivals(chosen: Sequence[str], model: Model, folder: Path, runners: Sequence[str]) -> list[Contestant]:
    """The chosen rivals, forms of Meta's own encoder: files on every runner, PyTorch once."""
    if not chosen:
        return []
    # Imported by name: the runtime does not depend on modules that need PyTorch.
    found = importlib.import_module("structsam_export.rivals")
    if unknown := set(chosen) - set(found.Rival):
        raise UserError(f"--rival {', '.join(unknown)} is unknown; expected one of {', '.join(found.Rival)}")
    pairs = [
        (which, runner)
        for which in map(found.Rival, dict.fromkeys(chosen))
        for runner in which.runners(runners)
    ]
    for which, runner in pairs:
        found.require(which, runner)  # all of them before the first is written
    return [
        Contestant(
            which.label,
            runner if which.exported else PYTORCH,
            kind_of(runner).device == "cuda",
            found.rival(which, model, folder, runner),
        )
        for which, runner in pairs
    ]


def _times(
    contestants: Sequence[Contestant], inputs: Mapping[str, Array], repeat: int
) -> tuple[dict[Contestant, list[float]], dict[Contestant, Feeds]]:
    """Seconds of every interleaved run, and the inputs of each encoder."""
    with ExitStack() as stack:
        runners = {one: stack.enter_context(one.make()) for one in contestants}
        feeds = {one: {key: inputs[key] for key in runner.inputs} for one, runner in runners.items()}
        calls = {one: partial(runner.infer, feeds[one]) for one, runner in runners.items()}
        return interleaved(calls, repeat), feeds


def _profile(
    contestants: Sequence[Contestant], feeds: Mapping[Contestant, Feeds], runs: int
) -> dict[str, dict[str, float]]:
    """Seconds by operator, for encoders that ONNX Runtime runs."""
    many = len({one.runner for one in contestants if one.runner in PROVIDERS}) > 1
    profiles: dict[str, dict[str, float]] = {}
    for one in contestants:
        made = one.make()
        if isinstance(made, OnnxRuntimeRunner):
            seconds = operators(made.path, made.provider, feeds[one], runs)
            name = f"{one.name}, {one.runner}" if many else one.name
            profiles[name] = {kind: round(value, 5) for kind, value in seconds.items()}
    return profiles


def _many_prompts(out: Path, picture: Any, runner: str) -> dict[str, Any]:
    """Time 64 boxes in one call of the decoder and in 64 calls: interleaved, best of three.

    The upscaling of masks to the size of the picture, which is the same for both, is not included.
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
        "runner": runner,
        "boxes": len(boxes),
        "one_call_s": round(together, 4),
        "call_for_each_s": round(apart, 4),
        "ratio": round(together / apart, 4),
    }


def _told(out: Path) -> dict[str, Any]:
    """Facts from the manifest of an export: multiply-accumulates in 10^9, and agreement with PyTorch."""
    said = content(out)
    return {
        "gmac": round(gmac(said), 1),
        "gmac_unmerged": round(entry(said, "macs.unmerged", float) / 1e9, 1),
        "mask_iou": entry(said, "verification.mask_iou", float),
        "plans": entry(said, "verification", dict).get("plans"),
    }
