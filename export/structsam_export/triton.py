"""A model repository for NVIDIA's Triton Inference Server, made from an export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structsam_runtime.commit import Box, recover
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import content
from structsam_runtime.predict.predictor import BATCH

from .choices import Engine
from .staging import check_writable

FLAG = "--triton-repository"

Message = Mapping[str, Any]
"""A message of protobuf: values are text, words of an enumeration, numbers, messages, or lists of these."""
Tensors = Sequence[Mapping[str, Any]]
"""A graph's inputs or outputs as the manifest tells them: name, dtype, and shape with names for open axes."""


class Word(str):
    """A value of an enumeration: the text format has no quotes around it."""


_TYPES = {"float32": Word("TYPE_FP32"), "int32": Word("TYPE_INT32")}


@dataclass(frozen=True)
class Kind:
    """A backend of the server, and what it runs."""

    backend: str
    model: str  # its name for the file
    suffix: str  # of the file in the export
    device: Word


ONNX = Kind("onnxruntime", "model.onnx", "onnx", Word("KIND_AUTO"))  # a GPU if the server has one
PLAN = Kind("tensorrt", "model.plan", "engine", Word("KIND_GPU"))


def names(export: Path) -> tuple[str, str, str]:
    """What the encoder, the decoder and the two in one are called: after the folder of the export."""
    name = export.resolve().name
    return f"{name}_encoder", f"{name}_decoder", name


def check_repository(repository: Path, export: Path, engine: Engine | None, force: bool) -> None:
    """Refuse, before any work is done, a repository that could not be written.

    Args:
        repository: the folder that the server is given; made if it is not there.
        export: the folder of the export, which need not be there yet.
        engine: what is built.
        force: replace models of the same names.

    Raises:
        UserError: the server has no backend for the engine; one folder would hold the other; a model of such
            a name is there and `force` is not given, or a folder that is no model; or the repository cannot
            be written.
    """
    if engine is Engine.TENSORRT_RTX:
        raise UserError(
            f"{FLAG} does not go with --engine {engine}, for which Triton has no backend; leave --engine out "
            f"to serve the ONNX files, or use --engine {Engine.TENSORRT}"
        )
    if repository.resolve() == export.resolve().parent or repository.resolve().is_relative_to(
        export.resolve()
    ):
        raise UserError(
            f"{FLAG} {repository} and --output {export} would hold one another, and Triton takes every "
            "folder of a repository for a model; choose another folder"
        )
    recover(repository.resolve())
    _check_taken(repository, export, force)
    check_writable(FLAG, repository, inside=repository)


def _check_taken(repository: Path, export: Path, force: bool) -> None:
    """Refuse to replace models, without `force`, and with it what is no model of an export."""
    taken = [folder for name in names(export) if (folder := repository / name).exists()]
    for folder in taken:
        if not _is_model(folder):
            raise UserError(f"{folder} holds files that are not a model of an export; choose another folder")
    if taken and not force:
        raise UserError(
            f"{FLAG} {repository} holds {taken[0].name} already; models are named after --output: "
            "choose another name or folder, or add --force"
        )


def _is_model(folder: Path) -> bool:
    """Whether a folder is a model and nothing else, so that replacing it loses nothing of the user's."""
    ours = {ONNX.model, PLAN.model, "encoder.onnx.data", "decoder.onnx.data"}
    if not (folder / "config.pbtxt").is_file() or not (folder / "1").is_dir():
        return False
    within = {path.name for path in (folder / "1").iterdir()}
    return {path.name for path in folder.iterdir()} == {"config.pbtxt", "1"} and within <= ours


def write_repository(repository: Path, export: Path, force: bool = True) -> None:
    """Write three models: encoder, decoder, and an ensemble that goes from picture and prompts to masks.

    They appear together: the old ones go before the first new one comes, the ensemble first, and it comes
    last, because it needs the others. Their files are those of the export, byte for byte: engines if it has
    them, or else ONNX files.

    Args:
        repository: as `check_repository` let it pass; which is checked again.
        export: finished.
        force: replace models of the same names.

    Raises:
        UserError: the repository cannot be written, or holds by now what is not to be replaced.
    """
    said = content(export)
    kind = PLAN if said["engine"] else ONNX
    encoder, decoder, both = names(export)
    parts = [
        (both, ensemble_config(both, (encoder, said["encoder"]), (decoder, said["decoder"])), None),
        (decoder, model_config(decoder, kind, said["decoder"]), f"decoder.{kind.suffix}"),
        (encoder, model_config(encoder, kind, said["encoder"]), f"encoder.{kind.suffix}"),
    ]
    of = (
        {"parameters": {"key": "structsam_export", "value": {"string_value": said["id"]}}}
        if "id" in said
        else {}
    )
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with Box(repository.resolve(), both, names(export)) as box:
            _check_taken(repository, export, force)
            for name, config, source in parts:
                version = box.new / name / "1"  # an ensemble has one too, with nothing in it
                version.mkdir(parents=True)
                (box.new / name / "config.pbtxt").write_text(text({**config, **of}), encoding="utf-8")
                if source:
                    _copy(export / source, version / kind.model)
            box.commit()
    except (OSError, UserError) as error:
        raise UserError(
            f"{FLAG} {repository} cannot be written: {error}; the export is in {export}"
        ) from error


def _copy(source: Path, target: Path) -> None:
    """A model under the name that the server looks for, and its weights under the one that the model does."""
    shutil.copyfile(source, target)
    weights = source.with_name(f"{source.name}.data")
    if target.name == ONNX.model and weights.exists():
        shutil.copyfile(weights, target.with_name(weights.name))


def model_config(name: str, kind: Kind, contract: Mapping[str, Tensors]) -> Message:
    """The configuration of one graph.

    Where every input and output begins with the same open axis, the server may gather pictures into batches,
    and adds that axis itself. A decoder has none: its prompts belong to one picture.
    """
    batched = _batched(contract)
    return {
        "name": name,
        "backend": kind.backend,
        "max_batch_size": BATCH if batched else 0,
        **{
            side: [_tensor(tensor, tensor["shape"][batched:]) for tensor in contract[f"{side}s"]]
            for side in ("input", "output")
        },
        "instance_group": [{"count": 1, "kind": kind.device}],
        **({"dynamic_batching": {}} if batched else {}),
    }


def ensemble_config(
    name: str, encoder: tuple[str, Mapping[str, Tensors]], decoder: tuple[str, Mapping[str, Tensors]]
) -> Message:
    """One request: a picture, as the runtime prepares it, and its prompts; out come the masks.

    Args:
        name: of the ensemble.
        encoder, decoder: name and contract. What one gives and the other takes stays inside the server.
    """
    (_, looking), (_, asking) = encoder, decoder
    inside = {tensor["name"] for tensor in looking["outputs"]}
    one = 1 if _batched(looking) else 0  # the decoder takes one picture, so the ensemble does
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [
            *(_tensor(tensor, [1] * one + tensor["shape"][one:]) for tensor in looking["inputs"]),
            *(
                _tensor(tensor, tensor["shape"])
                for tensor in asking["inputs"]
                if tensor["name"] not in inside
            ),
        ],
        "output": [_tensor(tensor, tensor["shape"]) for tensor in asking["outputs"]],
        "ensemble_scheduling": {"step": [_step(*encoder), _step(*decoder)]},
    }


def _step(name: str, contract: Mapping[str, Tensors]) -> Message:
    """A model in an ensemble, whose tensors have the names that they have in the model."""
    return {
        "model_name": name,
        "model_version": -1,  # the newest
        **{
            f"{side}_map": [
                {"key": tensor["name"], "value": tensor["name"]} for tensor in contract[f"{side}s"]
            ]
            for side in ("input", "output")
        },
    }


def _batched(contract: Mapping[str, Tensors]) -> bool:
    first = {tensor["shape"][0] for side in contract.values() for tensor in side}
    return len(first) == 1 and isinstance(first.pop(), str)


def _tensor(tensor: Mapping[str, Any], shape: Sequence[int | str]) -> Message:
    return {
        "name": tensor["name"],
        "data_type": _TYPES[tensor["dtype"]],
        "dims": [-1 if isinstance(axis, str) else axis for axis in shape],
    }


def text(message: Message) -> str:
    """A message in protobuf's text format.

    Published classes would write it too, but they come with the client, which pins versions of libraries that
    ONNX needs. The tests read it back with them.
    """
    return "".join(f"{line}\n" for key, value in message.items() for line in _field(key, value))


def _field(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key} {{", *(f"  {line}" for line in text(value).splitlines()), "}"]
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return [f"{key}: {value}"]
    if isinstance(value, list):
        return [line for one in value for line in _field(key, one)]
    quoted = isinstance(value, str) and not isinstance(value, Word)
    return [f"{key}: {json.dumps(value, ensure_ascii=False) if quoted else value}"]
