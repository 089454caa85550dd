"""Models to evaluate: SAM in PyTorch with any merging method, and exports on any runner."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner

from structsam_runtime import Manifest, Predictor
from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.results import UNMERGED
from structsam_runtime.manifest import Model, gmac
from structsam_runtime.runners.base import Array, Runner, TensorSpec

from .analysis.macs import encoder_macs
from .check import runners
from .comparing import TorchRunner
from .config import ExportConfig
from .description import merging as merging_of
from .description import model_of
from .encoder import apply
from .encoder.decoder import PromptedMaskDecoder
from .encoder.patch import remove
from .merging import Identity
from .pipeline import fetch, load, patch, weights_source
from .progress import Progress
from .variants import label_of
from .verify import DECODER_INPUTS, DECODER_OUTPUTS

BASELINE = "Baseline"
PYTORCH = "pytorch"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: names its file of results.
        facts: what the tables say of it: label, rates, multiply-accumulates in 10^9, runner.
        open: gives an open predictor for a `with` block.
    """

    name: str
    facts: Mapping[str, Any]
    open: Callable[[], AbstractContextManager[Predictor]]


def in_pytorch(
    config: ExportConfig, merging: Mapping[ExportConfig, str], progress: Progress
) -> list[Candidate]:
    """The unmerged model, then other ways of merging, on one set of weights.

    Args:
        config: architecture, weights, image size and seed; its merging does not count.
        merging: from `variants` of the same config.
        progress: is told of every step.
    """
    fetch(config)
    with progress.step(f"load {config.arch}"):
        sam = load(config)
    decoder = PromptedMaskDecoder(sam).eval()
    model = model_of(config, sam)

    def candidate(name: str, label: str, rate: float, merged: ExportConfig | None) -> Candidate:
        if merged is None:
            apply(sam.image_encoder, [Identity()] * config.architecture.depth)
        else:
            patch(merged, sam.image_encoder)
        facts = {
            "label": label,
            "rate": rate,
            **_removed(merging_of(sam.image_encoder)),
            "gmac": round(encoder_macs(sam.image_encoder).total / 1e9, 2),
            "runner": PYTORCH,
        }
        return Candidate(name, facts, lambda: _torch_predictor(sam.image_encoder, decoder, model, merged))

    with progress.step("count multiply-accumulates"):
        made = [candidate(UNMERGED, BASELINE, 0.0, None)]
        for merged, label in merging.items():
            made.append(candidate(_name(merged), label, _rate(merged), merged))
    return made


def _rate(config: ExportConfig) -> float:
    """The rate that the tables file a config under."""
    return max(config.rate_unprompted, config.rate_global)


def _removed(merging: Mapping[str, Any]) -> dict[str, float]:
    """The share of tokens that window and global blocks really lose, from the manifest's `merging`."""
    return {
        f"effective_{kind}": merging.get(kind, {}).get("effective_rate", 0.0) for kind in ("window", "global")
    }


def _name(config: ExportConfig) -> str:
    """The name of an export, without what all models of one run share."""
    size = "" if config.image_size == config.architecture.image_size else f"-{config.image_size}px"
    return config.name.removeprefix(f"{config.arch}-").removesuffix(f"{size}-{config.precision}")


@contextmanager
def _torch_predictor(
    encoder: Any, decoder: PromptedMaskDecoder, model: Model, merged: ExportConfig | None
) -> Iterator[Predictor]:
    """SAM in PyTorch, its encoder patched while the block runs; Meta's own blocks where nothing merges."""
    specs = contract(model)
    image = {"image": np.zeros((1, 3, model.image_size, model.image_size), np.float32)}
    prompts = {
        name: np.zeros([length if isinstance(length, int) else 1 for length in spec.shape], spec.dtype)
        for name, spec in specs["decoder"][0].items()
    }
    remove(encoder)
    if merged is not None:
        patch(merged, encoder)
    try:
        with Predictor(
            PolygraphyRunner(TorchRunner(encoder, image, ["image_embedding"]), *specs["encoder"]),
            PolygraphyRunner(TorchRunner(decoder, prompts, DECODER_OUTPUTS), *specs["decoder"]),
            model,
        ) as predictor:
            yield predictor
    finally:
        remove(encoder)


def from_export(folder: Path, runner: str) -> Candidate:
    """An export, on a runner of `compare`.

    Raises:
        UserError: no export, or a runner that is unknown or not here.
    """
    known, content = Manifest.read(folder), _content(folder)
    config = ExportConfig.from_json(content["arguments"])
    merges = bool(content["merging"])
    facts = {
        "label": label_of(config) if merges else BASELINE,
        "rate": _rate(config) if merges else 0.0,
        **_removed(content["merging"]),
        "gmac": round(gmac(content), 2),
        "runner": f"{runner} {config.precision}",
    }
    encoder, decoder = runners(folder, runner, known, [])

    @contextmanager
    def opened() -> Iterator[Predictor]:
        specs = contract(known.model)
        with Predictor(
            PolygraphyRunner(encoder, *specs["encoder"]),
            PolygraphyRunner(decoder, *specs["decoder"]),
            known.model,
        ) as predictor:
            yield predictor

    return Candidate(f"{folder.resolve().name}-{runner}", facts, opened)


def of_exports(
    folders: Sequence[Path], runner: str, checkpoint: Path | None, progress: Progress
) -> tuple[dict[str, Any], list[Candidate]]:
    """Exports of one model, the unmerged one first: the first export that merges nothing, or else PyTorch.

    Args:
        folders: of the exports.
        runner: one of structsam_runtime.runners.RUNNERS.
        checkpoint: the weights, if PyTorch needs them and they are not where the exports say.
        progress: is told of every step.

    Returns:
        What they share, as `described`, and the models.

    Raises:
        UserError: exports of the same name, or of different weights or sizes; weights that are not those of
            the exports, or are not needed; or as in `from_export`.
    """
    made = [from_export(folder, runner) for folder in folders]
    if len({one.name for one in made}) < len(made):
        raise UserError("two exports have the same name, which results go by; give each once, or rename one")
    contents = [_content(folder) for folder in folders]
    configs = [ExportConfig.from_json(content["arguments"]) for content in contents]
    what = [described(config, content["weights"]) for config, content in zip(configs, contents, strict=True)]
    if any(one != what[0] for one in what):
        raise UserError("the exports differ in weights or image size; evaluate one model at a time")
    reference = next((one for one in made if not one.facts["rate"]), None)
    if reference is not None:
        if checkpoint is not None:
            raise UserError(
                f"{reference.name} is the unmerged model, no weights are read; leave --checkpoint out"
            )
        merged = [one for one in made if one is not reference]
        return what[0], [dataclasses.replace(reference, name=UNMERGED), *merged]
    config = dataclasses.replace(
        configs[0],
        checkpoint=checkpoint or configs[0].checkpoint,
        prompt_windows=0,  # whoever knows prompts takes another input
        rate_background=None,
    )
    unmerged = in_pytorch(config, {}, progress)
    if weights_source(config)["sha256"] != contents[0]["weights"]["sha256"]:
        raise UserError(
            f"{folders[0]} was made from {contents[0]['weights']['source']} with another hash; "
            "give that file with --checkpoint"
        )
    return what[0], [*unmerged, *made]


def _content(folder: Path) -> dict[str, Any]:
    """All of an export's manifest, which has been read once."""
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def described(config: ExportConfig, weights: Mapping[str, str | None]) -> dict[str, Any]:
    """What models that are compared must share.

    Args:
        config: architecture and image size.
        weights: as `weights_source` and the manifest have them.
    """
    told = f"{weights['source']} {(weights['sha256'] or '')[:12]}".strip()
    return {"arch": config.arch, "image_size": config.image_size, "weights": told}


class PolygraphyRunner(Runner):
    """The runtime's view of a runner of Polygraphy's: PyTorch, ONNX Runtime or an engine.

    Args:
        runner: not yet active.
        inputs, outputs: what it takes and gives.
    """

    def __init__(
        self, runner: BaseRunner, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        super().__init__(runner.name)
        self._runner, self._contract = runner, (inputs, outputs)

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        self._runner.activate()
        return self._contract

    def _close(self) -> None:
        self._runner.deactivate()

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        # A copy: some of Polygraphy's runners give the same buffers again.
        return {name: np.array(value) for name, value in self._runner.infer(dict(feeds)).items()}


Specs = dict[str, TensorSpec]


def contract(model: Model) -> dict[str, tuple[Specs, Specs]]:
    """Inputs and outputs of the encoder and the decoder, as every export has them."""
    pixels, embedding, side = model.image_size, model.embedding, model.low_res
    single, whole = np.dtype(np.float32), np.dtype(np.int32)
    taken = {"image": TensorSpec(single, (1, 3, pixels, pixels))}
    if model.prior:
        taken |= {"prior": TensorSpec(single, (1, *embedding[1:]))}
    encoder = (taken, {"image_embedding": TensorSpec(single, (1, *embedding))})
    shapes: dict[str, tuple[int | str, ...]] = {
        "image_embedding": (1, *embedding),
        "point_coords": ("prompts", "points", 2),
        "point_labels": ("prompts", "points"),
        "mask_input": ("prompts", 1, side, side),
        "has_mask_input": ("prompts",),
    }
    inputs = {
        name: TensorSpec(whole if name == "point_labels" else single, shapes[name]) for name in DECODER_INPUTS
    }
    outputs = {
        "masks": TensorSpec(single, ("prompts", 4, side, side)),
        "iou_predictions": TensorSpec(single, ("prompts", 4)),
    }
    return {"encoder": encoder, "decoder": (inputs, outputs)}
