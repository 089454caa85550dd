"""Engines of an export, built from its graphs where they are to run, and listed in its manifest."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .build import EngineBuilder, Profile, Shape
from .commit import Box, ChangedError, recover
from .digest import sha256
from .errors import UserError
from .manifest import FILE_NAME, Manifest, content, entry
from .predict.decoding import PROMPTS
from .predict.predictor import BATCH
from .progress import Progress
from .runners.tensorrt import PLUGINS

PARTS = ("encoder", "decoder")
PLUGIN_GRAPH = "encoder.plugins.onnx"
"""The encoder's graph with plugins, of exports that have one."""
POINTS = 16
"""The most points of a prompt that an engine takes; a box is two."""


@dataclass(frozen=True)
class Part:
    """One of the two graphs of an export, as it becomes an engine."""

    graph: str  # name of the file
    profile: Profile


def add_engines(
    folder: Path,
    builder: EngineBuilder,
    progress: Progress,
    max_prompts: int = PROMPTS,
    verified: bool = True,
) -> dict[str, Any]:
    """Build both engines of an export, and replace those it has.

    Until both are built, and if anything fails, the export stays as it was. Whatever kills the process, the
    manifest and the graphs that it lists are there; engines that it does not list are refused by every
    runner, and replaced by the next build.

    Args:
        folder: the export.
        builder: the library and its settings; with plugins the encoder's engine comes of PLUGIN_GRAPH.
        progress: is told of every step.
        max_prompts: the most prompts of one run of the decoder.
        verified: False also takes .onnx files that their owner changed.

    Returns:
        What the manifest says of the engines now.

    Raises:
        UserError: it is no export, or its files are not those of its manifest; it has no graph with plugins
            and the builder wants one; the graphs need a newer library; or the folder changed meanwhile.
        BuildError: the parser or the builder failed.
        OSError: the folder cannot be written, or the disk is full.
    """
    base = folder.resolve()
    if base.is_dir():
        recover(base)
    manifest = Manifest.read(folder)
    builder = replace(builder, precision=manifest.model.precision)
    said, before = content(folder), (base / FILE_NAME).read_bytes()
    parts = parts_of(folder, max_prompts, builder.plugins is not None)
    if oldest := _oldest(said):
        builder.require(oldest)
    manifest.check_files(folder, [part.graph for part in parts.values()], verified)
    with Box(base, "engines", [*(f"{name}.engine" for name in parts), PLUGINS]) as box:
        seconds = _build(base, builder, parts, box.new, progress)
        if builder.plugins:
            shutil.copyfile(builder.plugins, box.new / PLUGINS)
        record = _record(builder) | {
            "precision": manifest.model.precision,
            "verified": verified,
            "profiles": {name: part.profile for name, part in parts.items()},
            "seconds": seconds,
        }
        (box.last / FILE_NAME).write_text(_listed(before, record, box.new), encoding="utf-8")
        try:
            if (base / FILE_NAME).read_bytes() != before:
                raise ChangedError(f"{base} changed")
            box.commit()
        except ChangedError as error:
            raise UserError(f"{folder} changed while its engines were built; build again") from error
    return record


def _oldest(said: Mapping[str, Any]) -> str | None:
    """The oldest TensorRT that reads the graphs; None for manifests from before they said so."""
    graph = entry(said, "graph", dict) if "graph" in said else {}
    return entry(said, "graph.tensorrt", str) if "tensorrt" in graph else None


def _record(builder: EngineBuilder) -> dict[str, Any]:
    """What a manifest says of the library, and for which GPUs it builds."""
    hardware = asdict(builder.hardware)
    return {"library": str(builder.library), "version": builder.version, **hardware, "tf32": False}


def _build(
    base: Path, builder: EngineBuilder, parts: Mapping[str, Part], made: Path, progress: Progress
) -> dict[str, float]:
    """Write the engines into a folder; returns the seconds that each took."""
    seconds = {}
    for name, part in parts.items():
        with progress.phases(f"build {name} with {builder.library}") as (notes, phases):
            start, path = time.perf_counter(), made / f"{name}.engine"
            builder.build(base / part.graph, path, part.profile, phases)
            seconds[name] = round(time.perf_counter() - start, 1)
            notes.append(f"{path.stat().st_size / 1e6:.0f} MB")
    return seconds


def _listed(before: bytes, record: Mapping[str, Any], made: Path) -> str:
    """A manifest with engines, in place of those that it had."""
    said = json.loads(before)  # numbers as they are: `content` rounds those with many digits
    files = {name: about for name, about in said["files"].items() if not _replaced(name)}
    files |= {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(made.iterdir())
    }
    return json.dumps(said | {"engine": record, "files": dict(sorted(files.items()))}, indent=2) + "\n"


def _replaced(name: str) -> bool:
    return name == PLUGINS or name.endswith(".engine")


def parts_of(folder: Path, max_prompts: int = PROMPTS, plugins: bool = False) -> dict[str, Part]:
    """The graphs of an export, and the shapes that their engines take.

    Args:
        folder: the export.
        max_prompts: the most prompts of one run of the decoder.
        plugins: take the encoder's graph with plugins.

    Raises:
        UserError: it is no export, lacks the shapes of its inputs, or has no graph with plugins.
    """
    said = content(folder)
    graphs = {name: f"{name}.onnx" for name in PARTS}
    if plugins:
        graphs["encoder"] = PLUGIN_GRAPH
        if PLUGIN_GRAPH not in entry(said, "files", dict):
            raise UserError(f"{folder} has no {PLUGIN_GRAPH}; export it with --plugin-graph")
    lengths = {"batch": (1, 1, BATCH), "prompts": (1, 1, max_prompts), "points": (1, 2, POINTS)}
    return {name: Part(graph, _profile(said, name, lengths)) for name, graph in graphs.items()}


def _profile(said: Mapping[str, Any], part: str, lengths: Mapping[str, Shape]) -> Profile:
    """Smallest, usual and largest shape of every input of a graph that has open axes.

    Args:
        said: all of the manifest.
        part: the graph.
        lengths: smallest, usual and largest length of an open axis, by its name.
    """
    profile = {}
    for tensor in entry(said, f"{part}.inputs", list):
        try:
            name, shape = str(tensor["name"]), list(tensor["shape"])
            ends = [lengths[axis] if isinstance(axis, str) else (int(axis),) * 3 for axis in shape]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{FILE_NAME} has an input '{tensor!s:.60}' in '{part}.inputs', expected a name, and a "
                f"shape of numbers and {', '.join(lengths)}; export again"
            ) from error
        if any(isinstance(axis, str) for axis in shape):
            smallest, usual, largest = (tuple(end[index] for end in ends) for index in range(3))
            profile[name] = (smallest, usual, largest)
    return profile
