"""Files told apart by their bytes: whatever trainers put around weights is passed over, and nothing runs."""

import argparse
import collections
import contextlib
import datetime
import decimal
import json
import os
import pickle
import subprocess
import types
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from structsam_export.models import reading
from structsam_export.models.reading import read_contents, weight_files
from structsam_runtime.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


# By content


def as_legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def as_deflated(path: Path) -> None:
    """A checkpoint that was unzipped and zipped again."""
    torch.save(WEIGHTS, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


WRITERS: dict[str, Callable[[Path], object]] = {
    "zip": lambda path: torch.save(WEIGHTS, path),
    "legacy": as_legacy,
    "deflated": as_deflated,
    "safetensors": lambda path: save_file(WEIGHTS, path, {"format": "pt"}),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_bytes_tell_what_a_file_is(tmp_path: Path, writer: str, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    WRITERS[writer](path)
    assert same(read_contents(path).tensors, WEIGHTS)


def write_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")


def write_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"0" * 100)


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (write_lfs, "a Git LFS pointer, not the file itself: run git lfs pull"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "a gzip archive"),
    "Keras": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "an HDF5 file"),
    "archive": (lambda path: write_zip(path, "x/sam.pth"), "a zip archive holding x/sam.pth.*unpack it"),
    "NumPy": (lambda path: write_zip(path, "arr_0.npy"), "a zip archive holding arr_0.npy"),
    "TorchScript": (lambda path: write_zip(path, "x/constants.pkl"), r"TorchScript program.*state_dict\(\)"),
    "JSON": (lambda path: path.write_text('{"a": 1}'), "JSON without a weight_map"),
    "deep JSON": (lambda path: path.write_text('{"a":' * 90000), "JSON without a weight_map"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_files_are_called_what_they_are(tmp_path: Path, what: str) -> None:
    write, told = OTHERS[what]
    write(tmp_path / "sam.pth")
    with pytest.raises(UserError, match=f"sam.pth is .*{told}"):
        read_contents(tmp_path / "sam.pth")


def test_a_program_of_torchscript_is_one(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "sam.pt")
    with pytest.raises(UserError, match="is a TorchScript program"):
        read_contents(tmp_path / "sam.pt")


def test_a_file_that_would_fill_the_memory_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALL", 1 << 20)
    path = tmp_path / "sam.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/data/0", bytes(50_000_000))
    with pytest.raises(UserError, match=r"would unpack to 0.1 GB from 0.0 MB, as no weights do"):
        read_contents(path)


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sam.pth")
    with pytest.raises(UserError, match="no checkpoint at"):
        read_contents(tmp_path / "sam.pth")


# What trainers put around weights


class Config:
    """A class of a trainer, which no one else has."""

    def __init__(self) -> None:
        self.rate, self.run = 0.1, uuid.UUID(int=7)


class Attributes(dict[str, Any]):
    """As Lightning and EasyDict have it: a dict with attributes."""

    __getattr__ = dict.__getitem__


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.1


def optimizer() -> dict[str, Any]:
    """As AdamW's state_dict()."""
    known = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1]}]
    return {"state": {0: known, 1: known}, "param_groups": groups}


BESIDE: dict[str, Callable[[], Any]] = {
    "NumPy's numbers": lambda: [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True)],
    "NumPy's arrays": lambda: {"random": np.random.default_rng(0).normal(size=3), "kind": np.dtype("f4")},
    "arguments": lambda: argparse.Namespace(lr=0.1, data=Path("data"), best=np.float64(1)),
    "a class": Config,
    "a class with slots": Slotted,
    "a dict with attributes": lambda: Attributes(lr=0.1, inner=Attributes(a=np.float64(1))),
    "Python's data": lambda: {
        "when": datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC),
        "took": datetime.timedelta(1),
        "log": collections.defaultdict(list, a=[1]),
        "last": collections.deque([1, 2], maxlen=3),
        "count": collections.Counter("aab"),
        "names": types.SimpleNamespace(a=1),
        "price": decimal.Decimal("0.1"),
        "kinds": [{1}, frozenset({2}), slice(3), range(4), 5j, bytearray(b"6"), b"7", None, 10**30, Config],
    },
    "an optimizer": optimizer,
    "a set and keys of classes": lambda: {Path("a"): {Path("b")}, uuid.UUID(int=1): Attributes(a=1)},
    "types and devices": lambda: [torch.float16, torch.device("cpu"), torch.Size([2])],
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", BESIDE)
def test_what_trainers_store_beside_weights_is_passed_over(tmp_path: Path, what: str, zipped: bool) -> None:
    content = {"best": BESIDE[what](), "model": WEIGHTS, "last": BESIDE[what]()}
    torch.save(content, tmp_path / "sam.pth", _use_new_zipfile_serialization=zipped)
    found = read_contents(tmp_path / "sam.pth").tensors
    own = {name: value for name, value in found.items() if name.startswith("model.")}
    assert same(own, {f"model.{name}": value for name, value in WEIGHTS.items()})


def test_all_of_it_at_once_is_passed_over(tmp_path: Path) -> None:
    torch.save(
        {"model": WEIGHTS} | {what: make() for what, make in BESIDE.items()},
        tmp_path / "sam.pth",
    )
    found = read_contents(tmp_path / "sam.pth").tensors
    assert {f"model.{name}" for name in WEIGHTS} <= found.keys()


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


HOSTILE: dict[str, Callable[[str], Calls]] = {
    "os": lambda path: Calls(os.mkdir, path),
    "a process": lambda path: Calls(subprocess.Popen, ["touch", path]),
    "eval": lambda path: Calls(eval, f"open({path!r}, 'w')"),
    "a function of another package": lambda path: Calls(touch, path),
    "open": lambda path: Calls(open, path, "w"),
    "NumPy": lambda path: Calls(np.save, path, 1),
}


def test_a_loss_with_weights_of_its_own_is_passed_over(tmp_path: Path) -> None:
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))
    torch.save({"model": WEIGHTS, "loss": loss}, tmp_path / "sam.pth")
    assert len(read_contents(tmp_path / "sam.pth").tensors) == len(WEIGHTS)
    torch.save({"model": WEIGHTS, "loss": loss}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"old.pth holds Python objects.*save its state_dict\(\) alone"):
        read_contents(tmp_path / "old.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", HOSTILE)
def test_what_wants_to_run_is_refused_and_does_not(tmp_path: Path, what: str, zipped: bool) -> None:
    path, touched = tmp_path / "sam.pth", tmp_path / "touched"
    content = {"args": argparse.Namespace(a=HOSTILE[what](str(touched))), "model": WEIGHTS}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"sam.pth holds Python objects that could run code"):
        read_contents(path)
    assert not touched.exists()


def test_classes_stand_for_nothing_once_a_file_is_read(tmp_path: Path) -> None:
    """What is let pass in one file is not let pass in PyTorch's own loading afterwards."""
    torch.save({"model": WEIGHTS, "args": argparse.Namespace()}, tmp_path / "sam.pth")
    before = set(torch.serialization.get_safe_globals())
    read_contents(tmp_path / "sam.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "sam.pth", weights_only=True)


def test_a_whole_model_is_not_made(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2), "epoch": 3}, tmp_path / "sam.pth")
    contents = read_contents(tmp_path / "sam.pth")
    assert contents.tensors == {}
    assert contents.objects == {"torch.nn.modules.linear.Linear"}


def test_mappings_that_hold_themselves_and_each_other_end(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"x": torch.ones(1)}
    inner["again"] = [inner, inner]
    torch.save({"a": inner, "b": inner}, tmp_path / "sam.pth")
    assert list(read_contents(tmp_path / "sam.pth").tensors) == ["a.x"]


def test_names_from_a_file_cannot_move_the_cursor(tmp_path: Path) -> None:
    torch.save({"a\x1b[2J\r": torch.ones(1), "größe": torch.ones(1)}, tmp_path / "sam.pth")
    assert list(read_contents(tmp_path / "sam.pth").tensors) == [r"a\x1b[2J\r", "größe"]


# Folders and shards


def shard(folder: Path, save: Callable[[dict[str, Tensor], Path], object], stem: str, suffix: str) -> None:
    names = [f"{stem}-0000{number}-of-00002{suffix}" for number in (1, 2)]
    for (name, value), file in zip(WEIGHTS.items(), names, strict=True):
        save({name: value}, folder / file)
    index = {"metadata": {}, "weight_map": dict(zip(WEIGHTS, names, strict=True))}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda folder: save_file(WEIGHTS, folder / "model.safetensors"),
    "half": lambda folder: save_file(WEIGHTS, folder / "model.fp16.safetensors"),
    "bin": lambda folder: torch.save(WEIGHTS, folder / "pytorch_model.bin"),
    "both": lambda folder: (
        save_file(WEIGHTS, folder / "model.safetensors"),
        torch.save({"old": torch.ones(1)}, folder / "pytorch_model.bin"),
    ),
    "sharded safetensors": lambda folder: shard(folder, save_file, "model", ".safetensors"),
    "sharded bin": lambda folder: shard(folder, torch.save, "pytorch_model", ".bin"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_of_save_pretrained_is_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({"lr": 1}, tmp_path / "training_args.bin")
    FOLDERS[what](tmp_path)
    assert same(read_contents(tmp_path).tensors, WEIGHTS)
    for index in tmp_path.glob("*.index.json"):
        assert same(read_contents(index).tensors, WEIGHTS)
        assert len(weight_files(tmp_path)) == 2


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    shard(tmp_path, save_file, "model", ".safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model-00002-of-00002.safetensors beside .*, which lists it"):
        read_contents(tmp_path)


def test_shards_lie_beside_their_index(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "in" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../model.safetensors"}})
    )
    with pytest.raises(UserError, match=r"no model\.safetensors beside"):
        read_contents(tmp_path / "in")


def test_a_folder_with_several_or_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*or a folder of save_pretrained"):
        read_contents(tmp_path)
    for name in ("one", "two"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"holds 2 checkpoints \(one.safetensors, two.safetensors"):
        read_contents(tmp_path)


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Good files of every kind, small enough that most of their bytes are names."""
    folder = tmp_path_factory.mktemp("whole")
    for name, write in WRITERS.items():
        write(folder / name)
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(a=np.float64(1))}, folder / "envelope")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.data())
def test_damaged_files_are_refused_in_one_line_or_read(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "sam.pth"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UserError):
        read_contents(path)
