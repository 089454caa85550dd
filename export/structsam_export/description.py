"""What was built, from what, and how accurate it measured."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from structsam_runtime.digest import sha256
from structsam_runtime.manifest import FORMAT, Model

from . import __version__
from .analysis.macs import EncoderMacs
from .config import ExportConfig
from .encoder.exported import told_plans
from .merging.prompted import PROMPT
from .models.family import FAMILIES

PLACES = {"window": "window blocks", "global": "global blocks", PROMPT: "windows with a prompt"}
"""Where tokens merge alike, in words."""
_PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx-graphsurgeon",
    "onnxruntime",
    "polygraphy",
    "tensorrt",
    "tensorrt-rtx",
)


def manifest(
    config: ExportConfig,
    sam: Any,
    folder: Path,
    weights: dict[str, str | None],
    macs: EncoderMacs,
    verification: dict[str, Any],
) -> dict[str, Any]:
    """The content of `manifest.json`, of an export without engines.

    Args:
        config: what was asked for.
        sam: with its patched encoder.
        folder: holds the files that were made, and nothing else.
        weights: where they came from, their hash, and the type that they had there.
        macs: of the encoder.
        verification: a `verify.Report` as a dictionary.
    """
    return {
        "format": FORMAT,
        "id": export_id(config, weights),
        "name": config.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "structsam": __version__,
        "model": asdict(model_of(config, sam)),
        "arguments": config.as_json(),
        "command": config.command(),
        "recipe": config.recipe.as_json(),
        "weights": weights,
        "merging": merging(sam.image_encoder),
        "plans": plans(sam.image_encoder),
        "macs": macs.as_json(),
        "graph": {
            "target": config.written_for,
            "opset": config.dialect.opset,
            "attention": config.form,
            "tensorrt": config.dialect.tensorrt,  # the oldest that reads it
        },
        "encoder": graph_tensors(folder / "encoder.onnx"),
        "decoder": graph_tensors(folder / "decoder.onnx"),
        "verification": verification,
        "engine": None,
        "files": {path.name: _file(path) for path in sorted(folder.iterdir())},
        "versions": versions(),
    }


def export_id(config: ExportConfig, weights: dict[str, str | None]) -> str:
    """What tells an export from others: the same for the same arguments, weights and version."""
    made_of = json.dumps([config.as_json(), weights, __version__], sort_keys=True)
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def model_of(config: ExportConfig, sam: Any) -> Model:
    """What the runtime needs to know of the model."""
    architecture, size = config.architecture, config.image_size
    grid, family = architecture.grid(size), FAMILIES[config.family]
    return Model(
        arch=config.arch,
        image_size=size,
        embedding=(architecture.width, grid, grid),
        low_res=architecture.mask_side(size),
        mask_threshold=float(sam.mask_threshold),
        pixel_mean=family.pixels.mean,
        pixel_std=family.pixels.std,
        precision=config.precision,
        prior=config.prompt_aware,
        scaling=family.pixels.scaling,
        fit=family.pixels.fit,
        resampling=family.pixels.resampling,
        upscaling=family.upscaling,
        boxes_only=family.boxes_only,
    )


def merging(encoder: Any) -> dict[str, Any]:
    """Counts by the keys of PLACES: cells merged of all cells, tokens kept of all, the rate that came of it.

    In a prompt-aware encoder `prompt` are the windows with the most prior, and `window` the others.
    """
    kinds: dict[str, Any] = {}
    for told in told_plans(encoder):
        windows = told.windows
        counts: dict[str, Any] = told.block.method.counts(windows)
        counts["effective_rate"] = round(1 - counts["tokens_kept"] / counts["tokens"], 4)
        kind = "window" if told.block.attends_in_windows else "global"
        kinds[PROMPT if windows.group == PROMPT else kind] = counts
    return kinds


def plans(encoder: Any) -> list[dict[str, Any]]:
    """Where the encoder's graph holds the plans of every block that merges, one for each group of windows."""
    return [
        {
            "block": told.index,
            "slot": told.name("slot"),
            "position": told.name("position"),
            "windows": told.windows.per_image,
            "tokens": told.windows.tokens,
            "slots": told.block.method.slots(told.windows),
        }
        for told in told_plans(encoder)
    ]


def graph_tensors(path: Path) -> dict[str, Any]:
    """Names, types and shapes of a graph's inputs and outputs; a name for a dimension that is open."""
    graph = onnx.load(path, load_external_data=False).graph
    return {"inputs": _tensors(graph.input), "outputs": _tensors(graph.output)}


def _tensors(values: Sequence[onnx.ValueInfoProto]) -> list[dict[str, Any]]:
    return [
        {
            "name": value.name,
            "dtype": str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            "shape": [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        }
        for value in values
    ]


def versions() -> dict[str, str]:
    """Of everything that had a hand in the export."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def write(path: Path, content: dict[str, Any]) -> None:
    """As indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")
