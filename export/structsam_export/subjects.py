"""Models to evaluate: SAM in PyTorch with any merging method, and exports on any runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structsam_runtime import Predictor
from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.errors import UserError
from structsam_runtime.evaluation.results import UNMERGED
from structsam_runtime.manifest import Model, content, entry, gmac
from structsam_runtime.progress import Progress

from .analysis.macs import encoder_macs
from .comparing import TorchRunner
from .config import ExportConfig
from .description import merging as merging_of
from .description import model_of
from .encoder import apply
from .encoder.decoder import PromptedMaskDecoder
from .encoder.patch import remove
from .encoder.walk import WalkedEncoder
from .merging import Identity
from .pipeline import fetch, load, patch, weights_source
from .recipe import Uniform

BASELINE = "Baseline"
PYTORCH = "pytorch"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: name of its file of results.
        facts: values for the tables: label, rates, multiply-accumulates in 10^9, runner.
        open: returns a context manager of an open predictor.
    """

    name: str
    facts: Mapping[str, Any]
    open: Callable[[], AbstractContextManager[Predictor]]


def in_pytorch(
    config: ExportConfig, merging: Mapping[ExportConfig, str], progress: Progress
) -> list[Subject]:
    """The unmerged model in PyTorch, then merged variants, all with the same weights.

    Args:
        config: architecture, weights, image size and seed; its merging is ignored.
        merging: the result of `variants` for the same config.
        progress: shows every step.
    """
    fetch(config)
    with progress.step(f"load {config.arch}"):
        sam = load(config)
    decoder = PromptedMaskDecoder(sam).eval()
    model = model_of(config, sam)

    def subject(name: str, label: str, rate: float, merged: ExportConfig | None) -> Subject:
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
        return Subject(name, facts, lambda: _torch_predictor(sam.image_encoder, decoder, model, merged))

    with progress.step("count multiply-accumulates"):
        made = [subject(UNMERGED, BASELINE, 0.0, None)]
        for merged, label in merging.items():
            made.append(subject(_name(merged), label, merged.rate, merged))
    return made


def _removed(merging: Mapping[str, Any]) -> dict[str, float]:
    """The effective rates of window and global blocks, from the manifest's `merging`."""
    return {
        f"effective_{kind}": merging.get(kind, {}).get("effective_rate", 0.0) for kind in ("window", "global")
    }


def _name(config: ExportConfig) -> str:
    """The name of an export, without the parts that all models of one run share."""
    size = "" if config.image_size == config.architecture.image_size else f"-{config.image_size}px"
    own = config.name.removeprefix(f"{config.arch}-").removeprefix(f"{config.family}-")
    return own.removesuffix(f"{size}-{config.precision}")


@contextmanager
def _torch_predictor(
    encoder: Any, decoder: PromptedMaskDecoder, model: Model, merged: ExportConfig | None
) -> Iterator[Predictor]:
    """A predictor with SAM in PyTorch; its encoder is patched inside the context, or Meta's own if None."""
    remove(encoder)
    if merged is not None:
        patch(merged, encoder)
    try:
        with Predictor(
            TorchRunner(WalkedEncoder(encoder), *encoder_specs(model)),
            TorchRunner(decoder, *decoder_specs(model)),
            model,
        ) as predictor:
            yield predictor
    finally:
        remove(encoder)


def from_export(folder: Path, runner: str) -> Subject:
    """An export on a runner.

    Args:
        folder: the export.
        runner: one of structsam_runtime.runners.RUNNERS.

    Raises:
        UserError: the folder is no export, or the runner is unknown or not available.
    """
    predictor = Predictor.load(folder, runner)  # reports errors before evaluation starts
    content = _content(folder)
    config = ExportConfig.from_json(content["arguments"])
    merges = bool(content["merging"])
    facts = {
        "label": config.label if merges else BASELINE,
        "rate": config.rate if merges else 0.0,
        **_removed(content["merging"]),
        "gmac": round(gmac(content), 2),
        "runner": f"{runner} {config.precision}",
    }
    return Subject(f"{folder.resolve().name}-{runner}", facts, lambda: predictor)


def of_exports(
    folders: Sequence[Path], runner: str, checkpoint: Path | None, progress: Progress
) -> tuple[dict[str, Any], list[Subject]]:
    """Exports of one model. The unmerged model comes first: an export without merging, or else PyTorch.

    Args:
        folders: the exports.
        runner: one of structsam_runtime.runners.RUNNERS.
        checkpoint: the weights, if PyTorch is needed and the file was moved.
        progress: shows every step.

    Returns:
        The facts that they share (see `described`), and the models.

    Raises:
        UserError: two exports have the same name, or differ in weights or size; `checkpoint` has other
            weights than the exports, or is not needed; or as in `from_export`.
    """
    made = [from_export(folder, runner) for folder in folders]
    if len({one.name for one in made}) < len(made):
        raise UserError(
            "two exports have the same name, and results are stored by name; give each once, or rename one"
        )
    contents = [_content(folder) for folder in folders]
    configs = [ExportConfig.from_json(content["arguments"]) for content in contents]
    what = [described(config, content["weights"]) for config, content in zip(configs, contents, strict=True)]
    if any(one != what[0] for one in what):
        raise UserError("the exports differ in weights or image size; evaluate one model at a time")
    reference = next((one for one in made if not one.facts["rate"]), None)
    if reference is not None:
        if checkpoint is not None:
            raise UserError(
                f"{reference.name} is the unmerged model, so no weights are read; leave --checkpoint out"
            )
        merged = [one for one in made if one is not reference]
        return what[0], [dataclasses.replace(reference, name=UNMERGED), *merged]
    config = dataclasses.replace(
        configs[0],
        checkpoint=checkpoint or configs[0].checkpoint,
        merging=Uniform(),  # ignored, but without prior: a prompt-aware encoder has another input
    )
    unmerged = in_pytorch(config, {}, progress)
    if weights_source(config)["sha256"] != contents[0]["weights"]["sha256"]:
        raise UserError(
            f"{folders[0]} was made from {contents[0]['weights']['source']} with another hash; "
            "give that file with --checkpoint"
        )
    return what[0], [*unmerged, *made]


def _content(folder: Path) -> dict[str, Any]:
    """The whole manifest of an export, already read by `from_export`."""
    said = content(folder)
    for key in ("arguments", "weights", "merging"):
        entry(said, key, dict)
    return said


def described(config: ExportConfig, weights: Mapping[str, str | None]) -> dict[str, Any]:
    """The facts that compared models must share: architecture, image size and weights.

    Args:
        config: architecture, family and image size.
        weights: source and hash, as in `weights_source` and the manifest.
    """
    told = f"{weights['source']} {(weights['sha256'] or '')[:12]}".strip()
    family = {} if config.family == config.architecture.family else {"family": config.family}
    return {"arch": config.arch, **family, "image_size": config.image_size, "weights": told}
