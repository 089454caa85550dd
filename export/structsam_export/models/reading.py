"""Named tensors out of whatever file people have, told apart by its bytes; nothing in a file is ever run."""

from __future__ import annotations

import _compat_pickle
import itertools
import json
import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from structsam_runtime.errors import UserError, printable

EXPECTED = "expected a PyTorch state dict of a SAM"
FOLDER = (
    "*.safetensors.index*.json",
    "pytorch_model*.bin.index*.json",
    "*.safetensors",
    "pytorch_model*.bin",
)
"""What `save_pretrained` calls the weights in its folder; the first of them that is there is read."""
OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run git lfs pull",
    b"\x1f\x8b": "a gzip archive: unpack it and give the checkpoint inside",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
}
"""First bytes of files that are not damaged, but no checkpoints of PyTorch either."""
INFLATED = 4
"""Times its size on disk that a file may unpack to. Weights hardly compress."""
SMALL = 1 << 26
"""Bytes that any file may unpack to."""
PICKLE = 1 << 28
"""Bytes of the largest pickle that is read: names and shapes, without the weights themselves."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        tensors: by the path of keys that leads to them, joined by dots.
        objects: Python classes that the file names and that were not made, as `module.Class`.
    """

    tensors: dict[str, Tensor]
    objects: frozenset[str] = frozenset()


def read_contents(path: Path) -> Contents:
    """All tensors of a checkpoint, however deep they lie.

    Args:
        path: safetensors, a zipped or an older pickle of `torch.save`, whatever their names end in; the index
            of a sharded checkpoint; or the folder that Hugging Face's `save_pretrained` wrote.

    Raises:
        UserError: no such file, not a checkpoint, cut short, or one that wants to run code.
    """
    read = [_read(one) for one in weight_files(path)]
    tensors: dict[str, Tensor] = {}
    for contents in read:
        if twice := sorted(tensors.keys() & contents.tensors.keys()):
            raise UserError(f"{path} has {twice[0]} in two of its files; {EXPECTED}")
        tensors |= contents.tensors
    objects = {printable(name) for contents in read for name in contents.objects}
    return Contents({printable(name): value for name, value in tensors.items()}, frozenset(objects))


def weight_files(path: Path) -> list[Path]:
    """The files that hold the tensors of a checkpoint: itself, or those of a folder or an index.

    Raises:
        UserError: there is none, or an index lists a file that is not beside it.
    """
    if path.is_dir():
        path = _in_folder(path)
    elif not path.is_file():
        raise UserError(f"no checkpoint at {path}; give --checkpoint an existing file")
    with _opened(path) as file:
        if file.read(1) != b"{":
            return [path]
    return _shards(path)


def _in_folder(folder: Path) -> Path:
    for pattern in FOLDER:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(one.name for one in found[:3])
            raise UserError(f"{folder} holds {len(found)} checkpoints ({names} ..); give --checkpoint one")
    raise UserError(
        f"no checkpoint at {folder}; give --checkpoint an existing file, or a folder of save_pretrained "
        "with model.safetensors or pytorch_model.bin"
    )


def _shards(index: Path) -> list[Path]:
    """The files of a sharded checkpoint, which lie beside their index."""
    try:
        content = json.loads(index.read_bytes()) if index.stat().st_size < SMALL else None
    except (ValueError, RecursionError):  # bad UTF-8 is a ValueError too
        content = None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} is JSON without a weight_map; {EXPECTED}, or the index of its shards")
    found = [index.with_name(Path(name).name) for name in sorted(set(shards.values()))]
    if missing := [one.name for one in found if not one.is_file()]:
        raise UserError(
            f"no {printable(missing[0])} beside {index}, which lists it; copy all files of the checkpoint"
        )
    return found


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path) -> Contents:
    """The tensors of one file, by its first bytes."""
    with _opened(path) as file:
        head = file.read(9)
        named = next((what for start, what in OTHERS.items() if (head + file.read(99)).startswith(start)), "")
    if named:
        raise UserError(f"{path} is {named}; {EXPECTED}")
    if head[8:] == b"{":
        return _read_safetensors(path)
    return _read_zip(path) if head.startswith(b"PK\x03\x04") else _read_pickle(path)


def _read_safetensors(path: Path) -> Contents:
    try:
        return Contents(load_file(path))
    except Exception as error:  # a damaged header raises whatever its numbers lead to
        raise UserError(f"{path} is damaged or no safetensors; {EXPECTED}, download it again") from error


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged or no checkpoint; {EXPECTED}, download it again or save it again with torch.save"
    )


def _read_zip(path: Path) -> Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            names = [part.filename for part in parts]
            records = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
            _check_zip(path, parts, names, bool(records))
            globals_ = frozenset(_globals(archive.read(records[0])))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise _damaged(path) from error
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    return _unpickled(path, globals_, mmap=stored)


def _check_zip(path: Path, parts: list[zipfile.ZipInfo], names: list[str], pickled: bool) -> None:
    """Refuse archives that are no checkpoint, or that would fill the memory."""
    unpacked = sum(part.file_size for part in parts)
    if unpacked > max(INFLATED * path.stat().st_size, SMALL):
        raise UserError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB from {path.stat().st_size / 1e6:.1f} MB, as no "
            f"weights do; {EXPECTED}"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path} is a TorchScript program; {EXPECTED}, so save its state_dict() alone")
    if not pickled:
        holding = f" holding {printable(names[0])}" if names else ""
        raise UserError(f"{path} is a zip archive{holding}, not a checkpoint; {EXPECTED}, so unpack it")
    if next(part.file_size for part in parts if part.filename.endswith("/data.pkl")) > PICKLE:
        raise _damaged(path)


def _read_pickle(path: Path) -> Contents:
    """An older file of `torch.save`: pickles one behind the other, then the weights."""
    with _opened(path) as file:
        names = set(itertools.chain.from_iterable(_globals(file) for _ in range(4)))
    return _unpickled(path, frozenset(names), mmap=False)


def _globals(pickled: bytes | BinaryIO) -> Iterator[str]:
    """What one pickle wants to import, as `module.name`; ends quietly where the pickle is damaged."""
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")  # as Python 2 called them
                now = _compat_pickle.IMPORT_MAPPING.get(module, module), name
                yield ".".join(_compat_pickle.NAME_MAPPING.get((module, name), now))
    except Exception:  # the unpickler itself says what is wrong
        return


class _Thing:
    """Stands for an object of a class that is never imported: takes everything and keeps nothing."""

    def __new__(cls, *_: object) -> _Thing:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _Mapping:
    """The same for classes that are filled like a dict: only a real one may be."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Sequence:
    """The same for classes that are filled like a list."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


HARMLESS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "argparse": "Namespace",
        "builtins": "bool bytes dict float frozenset int list object range slice str tuple",
        "collections": "defaultdict deque",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "numpy": "dtype ndarray",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy.core.multiarray": "_reconstruct scalar",
        "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "types": "SimpleNamespace",
        "uuid": "UUID",
    }.items()
    for name in names.split()
)
"""What trainers store beside weights, of Python's own and NumPy's."""


def _stands_for(name: str) -> bool:
    """Whether something stands for a global: data of Python and NumPy, and classes of other packages.

    Nothing that stands for a global can do any harm. Functions, and all else of Python itself, are refused
    all the same: whoever put them there wanted them to run.
    """
    module, _, own = name.rpartition(".")
    foreign = module.partition(".")[0] not in sys.stdlib_module_names
    return name in HARMLESS or (foreign and own.lstrip("_")[:1].isupper())


def _unpickled(path: Path, names: frozenset[str], mmap: bool) -> Contents:
    """The tensors of a pickle, read by PyTorch's unpickler of weights, which imports nothing.

    Args:
        path: the file.
        names: of all that its pickles want to import.
        mmap: leave the weights on the disk until they are used.
    """
    strange = sorted(name for name in names if _stands_for(name))
    try:
        loaded = _load(path, strange, mmap)
    except pickle.UnpicklingError as error:
        if any(word in str(error).lower() for word in ("unsupported global", "persistent_load")):
            raise UserError(
                f"{path} holds Python objects that could run code, not only tensors; {EXPECTED}, "
                "so save its state_dict() alone"
            ) from error
        raise _damaged(path) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise _damaged(path) from error
    tensors = dict(_flat(loaded))
    ours = re.compile(r"torch\.(?!nn\.modules\.)")  # PyTorch's own parts of tensors
    objects = frozenset(name for name in strange if not ours.match(name))
    if not tensors and not objects:
        raise UserError(f"{path} holds {type(loaded).__name__}, not named tensors; {EXPECTED}")
    return Contents(tensors, objects)


def _load(path: Path, strange: Sequence[str], mmap: bool) -> Any:
    """What a file of `torch.save` holds, with something in the place of every strange class.

    Only when the file is read it shows which classes are filled like a dict or like a list.
    """
    kinds: dict[str, type[Any]] = dict.fromkeys(strange, _Thing)
    while True:
        try:
            return _load_with(kinds, path, mmap)
        except pickle.UnpicklingError as error:
            filled = re.search(r"(SETITEM|lists)\b.*\bStandIn(\d+)\b", str(error))
            if filled is None or kinds[strange[int(filled[2])]] is not _Thing:
                raise
            kinds[strange[int(filled[2])]] = _Mapping if filled[1] == "SETITEM" else _Sequence


def _load_with(kinds: Mapping[str, type[Any]], path: Path, mmap: bool) -> Any:
    """The same with what each class is known to be filled like."""
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (type(f"StandIn{index}", (kind,), {}), name) for index, (name, kind) in enumerate(kinds.items())
    ]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # of pickles that PyTorch did not write
        if mmap and path.suffix != ".safetensors":  # whose name alone PyTorch would go by
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _flat(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and sequences, and the path of keys to it; each container once."""
    seen: set[int] = set()
    queue: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while queue:
        keys, value = queue.popleft()
        if isinstance(value, Tensor):
            if keys:
                yield ".".join(keys), value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            queue += [((*keys, str(key)), one) for key, one in items]
