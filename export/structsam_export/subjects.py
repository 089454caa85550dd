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
from .progress import Progress
from .recipe import Uniform

BASELINE = "Baseline"
PYTORCH = "pytorch"


@dataclass(frozen=True)
class Subject:
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
) -> list[Subject]:
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
    """An export, on one of structsam_runtime.runners.RUNNERS.

    Raises:
        UserError: no export, or a runner that is unknown or not here.
    """
    predictor = Predictor.load(folder, runner)  # what is wrong is told now
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
        merging=Uniform(),  # which does not count; whoever knows prompts takes another input
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
    said = content(folder)
    for key in ("arguments", "weights", "merging"):
        entry(said, key, dict)
    return said


def described(config: ExportConfig, weights: Mapping[str, str | None]) -> dict[str, Any]:
    """What models that are compared must share.

    Args:
        config: architecture and image size.
        weights: as `weights_source` and the manifest have them.
    """
    told = f"{weights['source']} {(weights['sha256'] or '')[:12]}".strip()
    return {"arch": config.arch, "image_size": config.image_size, "weights": told}
