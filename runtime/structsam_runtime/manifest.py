"""What an export folder says about itself: ``manifest.json``."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from .errors import UserError

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
    precision: str  # fp32, fp16: the arithmetic inside; inputs and outputs stay float32
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
    sha256: str  # 64 hexadecimal digits


@dataclass(frozen=True)
class EngineRecord:
    """What the engines of an export were built with, and for what."""

    library: str  # tensorrt, tensorrt-rtx
    version: str  # of the library
    gpu: str | None  # the only GPU that they are for, by name; None for any of the right capability
    capabilities: tuple[str, ...]  # compute capabilities that they are for, as 8.6; empty where unknown


@dataclass(frozen=True)
class Manifest:
    """The part of ``manifest.json`` that the runtime needs; keys it does not know are left alone."""

    name: str
    weights: str  # the architecture, and the checkpoint's sha256 or what random weights were drawn with
    model: Model
    files: Mapping[str, FileRecord]
    engine: EngineRecord | None  # None for an export without engines
    command: str | None  # what made the export; None for one that is older than this key

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read ``folder/manifest.json``.

        Raises:
            UserError: no such folder, no manifest in it, not JSON, another format, a key missing or of the
                wrong kind.
        """
        path = folder / FILE_NAME
        data = _load(folder, path)
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
        )

    def remedy(self, folder: Path, engine: str | None = None) -> str:
        """What to do about an export that does not fit: `export again`, and the command where it is known.

        Args:
            folder: the export.
            engine: ``tensorrt`` or ``tensorrt-rtx``, to build engines with; default as it was made.
        """
        built = self.engine.library if self.engine else None
        engine = engine or built
        if self.command is None:
            return f"export again with --engine {engine}" if engine else "export again"
        command = self.command.replace(f" --engine {built}", "")
        engines = f" --engine {engine}" if engine else ""
        return f"export again: {command}{engines} --force -o {shlex.quote(str(folder))}"

    def check_files(self, folder: Path, names: Iterable[str], hashes: bool = True) -> None:
        """Check that files of the export are the ones that were written.

        Args:
            folder: the export.
            names: files to check, as the manifest names them.
            hashes: compare the sha256 too. It reads every byte, hundreds of megabytes for an encoder, so
                that loading a model compares sizes alone unless asked.

        Raises:
            UserError: a file that the manifest does not list, is missing, or has another size or sha256.
        """
        wanted = list(names)
        wanted += [data for name in wanted if (data := f"{name}.data") in self.files]  # weights kept apart
        for name in wanted:
            if name not in self.files:
                raise UserError(f"{folder / FILE_NAME} does not list {name}; {self.remedy(folder)}")
            _check_file(folder / name, self.files[name], hashes, f"{self.remedy(folder)}{_own(name)}")


def _load(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected the output folder of structsam export")
    if not path.is_file():
        raise UserError(f"no {FILE_NAME} in {folder}; expected the output folder of structsam export")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # bad UTF-8 and bad JSON are both a ValueError
        raise UserError(f"{path} cannot be read: {error}; export again") from error
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
        raise UserError(f"{path} has '{where}{key}' = {value!r}, expected {kind.__name__}; export again")
    return value


def _triple(data: Mapping[str, Any], key: str, kind: type[T], path: Path) -> tuple[T, T, T]:
    values = _get(data, key, list, path, "model.")
    if len(values) != 3:
        raise UserError(f"{path} has 'model.{key}' = {values!r}, expected three numbers; export again")
    indexed = {str(index): value for index, value in enumerate(values)}
    first, second, third = (_get(indexed, index, kind, path, f"model.{key}.") for index in indexed)
    return first, second, third


def _one_of(kind: Any, data: Mapping[str, Any], key: str, path: Path, default: Any) -> Any:
    """The value of a key of the model that may be missing: one of the words of a Literal."""
    value, words = _get({key: default, **data}, key, str, path, "model."), get_args(kind)
    if value not in words:
        raise UserError(f"{path} has 'model.{key}' = {value!r}, expected {' or '.join(words)}; export again")
    return value


def _model(data: Mapping[str, Any], path: Path) -> Model:
    model = Model(
        arch=_get(data, "arch", str, path, "model."),
        image_size=_get(data, "image_size", int, path, "model."),
        embedding=_triple(data, "embedding", int, path),
        low_res=_get(data, "low_res", int, path, "model."),
        mask_threshold=_get(data, "mask_threshold", float, path, "model."),
        pixel_mean=_triple(data, "pixel_mean", float, path),
        pixel_std=_triple(data, "pixel_std", float, path),
        precision=_get(data, "precision", str, path, "model."),
        prior=_get(data, "prior", bool, path, "model.") if "prior" in data else False,
        scaling=_one_of(Scaling, data, "scaling", path, Model.scaling),
        fit=_one_of(Fit, data, "fit", path, Model.fit),
        resampling=_one_of(Resampling, data, "resampling", path, Model.resampling),
        upscaling=_one_of(Upscaling, data, "upscaling", path, Model.upscaling),
        boxes_only=_get({"boxes_only": Model.boxes_only, **data}, "boxes_only", bool, path, "model."),
    )
    if min(model.image_size, model.low_res, *model.embedding, *model.pixel_std) <= 0:
        raise UserError(f"{path} has a size or a pixel_std that is not positive in 'model'; export again")
    return model


def _file(files: Mapping[str, Any], name: str, path: Path) -> FileRecord:
    data = _get(files, name, dict, path, "files.")
    where = f"files.{name}."
    return FileRecord(
        bytes=_get(data, "bytes", int, path, where), sha256=_get(data, "sha256", str, path, where)
    )


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
    )


def _own(name: str) -> str:
    """What else there is to do about a file that its owner may have changed."""
    return "; if you changed it, --unverified loads it" if ".onnx" in name else ""


def _check_file(path: Path, record: FileRecord, hashes: bool, remedy: str) -> None:
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}, though its manifest lists it; {remedy}")
    size = path.stat().st_size
    if size != record.bytes:
        raise UserError(
            f"{path} has {size} bytes, its manifest says {record.bytes}; copy it again or {remedy}"
        )
    if hashes and (digest := sha256(path)) != record.sha256:
        raise UserError(
            f"{path} has sha256 {digest[:12]}..., its manifest says {record.sha256[:12]}...; "
            f"copy it again or {remedy}"
        )


def sha256(path: Path) -> str:
    """Hash of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def gmac(content: Mapping[str, Any]) -> float:
    """Multiply-accumulates of an export's encoder in 10^9, planning included.

    Args:
        content: all of ``manifest.json``.
    """
    macs = content["macs"]
    return float((macs["merged"] + macs["planning"]) / 1e9)
