"""What an export folder says about itself: ``manifest.json``."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from .digest import sha256
from .errors import UserError
from .files import read_json

FORMAT = 2
"""Since 2, decoders know absent places; those of 1 would take them for something else."""
FILE_NAME = "manifest.json"

Scaling = Literal["deviation", "min-max"]
"""How pixels are scaled: by mean and standard deviation, or each picture from its lowest to its highest value
to 0..1."""
Fit = Literal["pad", "stretch"]
"""How a picture is fitted into the square: its longest side fills it and the rest is padding, or both sides
fill it."""
Resampling = Literal["bilinear", "spline"]
"""How a picture is resized: by Pillow's antialiased bilinear filter, or by cubic splines after a Gaussian."""
Upscaling = Literal["logits", "probabilities"]
"""What of a mask is interpolated: logits, to the model's square and from there to the picture, or their
sigmoid, to the picture at once."""

SIDE, CHANNELS = 8192, 65536
"""The longest side of an image, embedding or mask, and the most channels, that a manifest may ask for."""
HUGE, TINY = 1e6, 1e-6
"""Bounds of the numbers that pixels and logits meet: within them float32 stays finite."""

_OURS = ["structsam", "export"]
_HARMFUL = ("-o", "--output", "--force", "--triton-repository", "--plugins")
"""Options of export that a command from a manifest must not bring: they replace files, or run a library."""

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """What the runtime must know about the model behind the two graphs."""

    arch: str  # vit_b, vit_l, vit_h
    image_size: int  # side of the square encoder input, pixels
    embedding: tuple[int, int, int]  # channels, height, width of the image embedding
    low_res: int  # side of the decoder's masks, pixels
    mask_threshold: float  # a logit above it belongs to the mask
    pixel_mean: tuple[float, float, float]  # RGB, on the 0..255 scale; not used by min-max
    pixel_std: tuple[float, float, float]  # RGB, on the 0..255 scale; not used by min-max
    precision: str  # fp32, fp16, bf16, int8, ..: the arithmetic inside; inputs and outputs stay float32
    prior: bool = False  # whether the encoder takes one: see `prior`; manifests from before it do not say
    scaling: Scaling = "deviation"  # of pixels; manifests from before it do not say
    fit: Fit = "pad"  # of pictures; manifests from before it do not say
    resampling: Resampling = "bilinear"  # of pictures; manifests from before it do not say
    upscaling: Upscaling = "logits"  # of masks; manifests from before it do not say
    boxes_only: bool = False  # whether it learned one mask for a box and nothing else, as MedSAM did


@dataclass(frozen=True)
class FileRecord:
    """One file of an export as it was written."""

    bytes: int
    sha256: str | None  # 64 hexadecimal digits; None where the manifest does not say


@dataclass(frozen=True)
class EngineRecord:
    """What the engines of an export were built with, and for what."""

    library: str  # tensorrt, tensorrt-rtx
    version: str  # of the library
    gpu: str | None  # the only GPU that they are for, by name; None for any of the right capability
    capabilities: tuple[str, ...]  # compute capabilities that they are for, as 8.6; empty where unknown
    tf32: bool | None = None  # whether products of fp32 may be rounded; None where the manifest does not say


@dataclass(frozen=True)
class Manifest:
    """The part of ``manifest.json`` that the runtime needs; keys it does not know are left alone."""

    name: str
    weights: str  # the architecture, and the checkpoint's sha256 or what random weights were drawn with
    model: Model
    files: Mapping[str, FileRecord]
    engine: EngineRecord | None  # None for an export without engines
    command: str | None  # what made the export; None for one that is older than this key
    id: str | None = None  # that its graphs carry too; None for one that is older than this key

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read ``folder/manifest.json``.

        Raises:
            UserError: no such folder, no manifest in it, not JSON, another format, a key missing or of the
                wrong kind.
        """
        path, data = folder / FILE_NAME, content(folder)
        version = _get(data, "format", int, path)
        if version != FORMAT:
            raise UserError(f"{path} has format {version}, this version reads format {FORMAT}; export again")
        files = _get(data, "files", dict, path)
        weights = _get(data, "weights", dict, path)
        made_by = weights.get("sha256") or _get(weights, "source", str, path, "weights.")
        model = _model(_get(data, "model", dict, path), path)
        return cls(
            name=_get(data, "name", str, path),
            weights=f"{model.arch}, {made_by}",
            model=model,
            files={name: _file(files, name, path) for name in files},
            engine=_engine(data, path),
            command=_get(data, "command", str, path) if "command" in data else None,
            id=_get(data, "id", str, path) if "id" in data else None,
        )

    def rebuild(self, folder: Path, engine: str) -> str:
        """What to do about an export whose engines do not fit: the command that builds them here.

        Args:
            folder: the export.
            engine: ``tensorrt`` or ``tensorrt-rtx``.
        """
        return f"build them: {shlex.join(['structsam', 'build', str(folder), '--engine', engine])}"

    def remedy(self, folder: Path) -> str:
        """What to do about an export that does not fit: `export again`, and the command where it is known.

        Args:
            folder: the export.
        """
        engines = ["--engine", self.engine.library] if self.engine else []
        words = _harmless(self.command or "")
        if words is None:
            return f"export again with {shlex.join(engines)}" if engines else "export again"
        if "--engine" in words:
            at = words.index("--engine")
            del words[at : at + 2]
        return f"export again: {shlex.join([*words, *engines, '--force', '-o', str(folder)])}"

    def check_files(self, folder: Path, names: Iterable[str], verified: bool = True) -> None:
        """Check that files of the export are the ones that were written, by size and sha256.

        Args:
            folder: the export.
            names: files to check, as the manifest names them.
            verified: False asks only that they are there, for files that their owner changed.

        Raises:
            UserError: a file that the manifest does not list, is missing, cannot be read, or has another size
                or sha256.
        """
        wanted = list(names)
        wanted += [data for name in wanted if (data := f"{name}.data") in self.files]  # weights kept apart
        for name in wanted:
            if name not in self.files:
                raise UserError(f"{folder / FILE_NAME} does not list {name}; {self.remedy(folder)}")
            remedy = f"{self.remedy(folder)}{_own(name)}"
            if self.engine and name.endswith(".engine"):
                remedy = self.rebuild(folder, self.engine.library)
            _check_file(folder / name, self.files[name], verified, remedy)


def content(folder: Path) -> dict[str, Any]:
    """All that an export's manifest says.

    Raises:
        UserError: no such folder, no manifest in it, or it is no JSON object.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected the output folder of structsam export")
    if not path.is_file():
        raise UserError(f"no {FILE_NAME} in {folder}; expected the output folder of structsam export")
    try:
        data = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; export again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds {type(data).__name__}, expected a JSON object; export again")
    return data


def _get(data: Mapping[str, Any], key: str, kind: type[T], path: Path, where: str = "") -> T:
    """The value of one key; an integer passes for a float, a boolean passes for nothing but itself."""
    if key not in data:
        raise UserError(f"{path} lacks '{where}{key}'; export again")
    value = data[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(
            f"{path} has '{where}{key}' = {_short(value)}, expected {kind.__name__}; export again"
        )
    return value


def _short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _within(
    data: Mapping[str, Any], key: str, kind: type[T], path: Path, least: float, most: float, where: str
) -> T:
    """A number from `least` to `most`, both included; NaN is none."""
    value: Any = _get(data, key, kind, path, where)
    if not least <= value <= most:
        raise UserError(
            f"{path} has '{where}{key}' = {_short(value)}, expected {least:g} to {most:g}; export again"
        )
    return value  # type: ignore[no-any-return]


def _triple(
    data: Mapping[str, Any], key: str, kind: type[T], path: Path, least: float, most: Sequence[float]
) -> tuple[T, T, T]:
    values = _get(data, key, list, path, "model.")
    if len(values) != 3:
        raise UserError(f"{path} has 'model.{key}' = {_short(values)}, expected three numbers; export again")
    indexed = {str(index): value for index, value in enumerate(values)}
    first, second, third = (
        _within(indexed, index, kind, path, least, highest, f"model.{key}.")
        for index, highest in zip(indexed, most, strict=True)
    )
    return first, second, third


def _one_of(kind: Any, data: Mapping[str, Any], key: str, path: Path, default: Any) -> Any:
    """The value of a key of the model that may be missing: one of the words of a Literal."""
    value, words = _get({key: default, **data}, key, str, path, "model."), get_args(kind)
    if value not in words:
        expected = " or ".join(words)
        raise UserError(f"{path} has 'model.{key}' = {_short(value)}, expected {expected}; export again")
    return value


def _model(data: Mapping[str, Any], path: Path) -> Model:
    return Model(
        arch=_get(data, "arch", str, path, "model."),
        image_size=_within(data, "image_size", int, path, 1, SIDE, "model."),
        embedding=_triple(data, "embedding", int, path, 1, (CHANNELS, SIDE, SIDE)),
        low_res=_within(data, "low_res", int, path, 1, SIDE, "model."),
        mask_threshold=_within(data, "mask_threshold", float, path, -HUGE, HUGE, "model."),
        pixel_mean=_triple(data, "pixel_mean", float, path, -HUGE, (HUGE,) * 3),
        pixel_std=_triple(data, "pixel_std", float, path, TINY, (HUGE,) * 3),
        precision=_get(data, "precision", str, path, "model."),
        prior=_get(data, "prior", bool, path, "model.") if "prior" in data else False,
        scaling=_one_of(Scaling, data, "scaling", path, Model.scaling),
        fit=_one_of(Fit, data, "fit", path, Model.fit),
        resampling=_one_of(Resampling, data, "resampling", path, Model.resampling),
        upscaling=_one_of(Upscaling, data, "upscaling", path, Model.upscaling),
        boxes_only=_get({"boxes_only": Model.boxes_only, **data}, "boxes_only", bool, path, "model."),
    )


def _file(files: Mapping[str, Any], name: str, path: Path) -> FileRecord:
    data = _get(files, name, dict, path, "files.")
    where = f"files.{name}."
    digest = None if data.get("sha256") is None else _get(data, "sha256", str, path, where)
    return FileRecord(bytes=_get(data, "bytes", int, path, where), sha256=digest)


def _engine(data: Mapping[str, Any], path: Path) -> EngineRecord | None:
    if data.get("engine") is None:
        return None
    engine = _get(data, "engine", dict, path)
    where = "engine."
    capabilities = _get({"capabilities": [], **engine}, "capabilities", list, path, where)
    numbered = {str(index): value for index, value in enumerate(capabilities)}
    return EngineRecord(
        library=_get(engine, "library", str, path, where),
        version=_get(engine, "version", str, path, where),
        gpu=None if engine.get("gpu") is None else _get(engine, "gpu", str, path, where),
        capabilities=tuple(_get(numbered, index, str, path, f"{where}capabilities.") for index in numbered),
        tf32=None if engine.get("tf32") is None else _get(engine, "tf32", bool, path, where),
    )


def _own(name: str) -> str:
    """What else there is to do about a file that its owner may have changed."""
    return "; if you changed it, --unverified loads it" if ".onnx" in name else ""


def _harmless(command: str) -> list[str] | None:
    """The words of a manifest's command, to be quoted anew; None unless it can do nothing but export.

    A manifest comes with a folder, from anyone, and its command is shown as the thing to type.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # quotes do not match
        return None
    harmful = any(word.startswith(_HARMFUL) or not word.isprintable() for word in words)
    return None if harmful or words[:2] != _OURS else words


def _check_file(path: Path, record: FileRecord, verified: bool, remedy: str) -> None:
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}, though its manifest lists it; {remedy}")
    if not verified:
        return
    size = path.stat().st_size
    if size != record.bytes:
        raise UserError(
            f"{path} has {size} bytes, its manifest says {record.bytes}; copy it again or {remedy}"
        )
    try:
        digest = sha256(path) if record.sha256 else None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; copy it again or {remedy}") from error
    if digest != record.sha256:
        raise UserError(
            f"{path} has sha256 {digest:.12}..., its manifest says {record.sha256:.12}...; "
            f"copy it again or {remedy}"
        )


def entry(content: Mapping[str, Any], where: str, kind: type[T]) -> T:
    """A value of a manifest that only some commands need.

    Args:
        content: all of ``manifest.json``.
        where: its keys, as ``macs.merged``.
        kind: of the value; an integer passes for a float.

    Raises:
        UserError: a key is missing, or the value of another kind, or a number that is not finite.
    """
    *outer, last = where.split(".")
    inner, path = content, Path(FILE_NAME)
    for depth, key in enumerate(outer):
        inner = _get(inner, key, dict, path, "".join(f"{one}." for one in outer[:depth]))
    prefix = "".join(f"{one}." for one in outer)
    if kind is float:
        return _within(inner, last, kind, path, -sys.float_info.max, sys.float_info.max, prefix)
    return _get(inner, last, kind, path, prefix)


def gmac(content: Mapping[str, Any]) -> float:
    """Multiply-accumulates of an export's encoder in 10^9, planning included.

    Args:
        content: all of ``manifest.json``.

    Raises:
        UserError: it does not say.
    """
    return (entry(content, "macs.merged", float) + entry(content, "macs.planning", float)) / 1e9
