"""Weights from Meta, from a file or from a seed; files that are damaged, hostile or of another model."""

import dataclasses
import hashlib
import http.client
import math
import pickle
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from structsam_export.models import downloads
from structsam_export.models.architectures import ARCHITECTURES, DEFAULT
from structsam_export.models.checkpoints import (
    build_sam,
    download,
    load_sam,
    load_weights,
    own_weights,
    randomize,
    read_checkpoint,
)
from structsam_runtime.digest import cache_folder, sha256
from structsam_runtime.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Random weights


def test_a_seed_always_gives_the_same_weights(tiny: str) -> None:
    made = [build_sam(tiny, 64) for _ in range(3)]
    for sam, seed in zip(made, (0, 0, 1), strict=True):
        torch.manual_seed(len(made))  # must not matter
        torch.rand(seed + 1)
        randomize(sam, seed)
    first, again, other = (sam.state_dict() for sam in made)
    assert same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_every_parameter_is_random_and_finite(tiny: str) -> None:
    sam = load_sam(tiny, 64, None, random_weights=True)
    for name, value in sam.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert value.numel() == 1 or value.std() > 0, name


def test_random_attention_is_far_from_uniform(
    build_encoder: Callable[..., Any], photographs: Callable[[int], Tensor]
) -> None:
    """Some half a nat below the entropy of looking everywhere alike (half the variance of logits that spread
    by one), in windows without padding. A uniform one would hide errors of queries, keys and positions."""
    encoder = build_encoder(448)
    x = encoder.patch_embed(photographs(448)) + encoder.pos_embed
    for block in encoder.blocks:
        attention, normed = block.attn, block.norm1(x)
        if block.window_size:
            partition = type(block).forward.__globals__["window_partition"]
            normed, _ = partition(normed, block.window_size)
        height, width = normed.shape[1:3]
        query, key, _ = (
            part.unflatten(-1, (attention.num_heads, -1)).flatten(1, 2).transpose(1, 2).flatten(0, 1)
            for part in attention.qkv(normed).chunk(3, -1)
        )
        logits = type(attention).forward.__globals__["add_decomposed_rel_pos"](
            attention.scale * query @ key.transpose(1, 2),
            query,
            attention.rel_pos_h,
            attention.rel_pos_w,
            (height, width),
            (height, width),
        )
        weights = logits.softmax(-1)
        entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean()
        assert entropy < math.log(height * width) - 0.5
        assert entropy > 1, "nor does a token see one other alone"
        x = block(x)


# Reading a file


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_state_dict_is_read_however_it_was_wrapped(
    tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    weights: dict[str, Any] = {prefix + name: value for name, value in WEIGHTS.items()}
    extra = {"epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(weights if wrapper is None else {wrapper: weights} | extra, tmp_path / "sam.pth")
    assert same(read_checkpoint(tmp_path / "sam.pth"), WEIGHTS)


def test_a_file_of_the_old_format_is_read(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "sam.pth", _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(tmp_path / "sam.pth"), WEIGHTS)


def write_cut_short(path: Path, zipped: bool = True) -> None:
    torch.save({"a": torch.rand(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n"),
    "html": lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "cut short": write_cut_short,
    "cut short, old format": lambda path: write_cut_short(path, zipped=False),
    "cut to its first bytes": lambda path: path.write_bytes(b"PK\x03\x04"),
    "half a pickle": lambda path: path.write_bytes(pickle.dumps({"a": list(range(50))})[:40]),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # PyTorch, of pickles that it did not write
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_called_damaged(tmp_path: Path, what: str) -> None:
    DAMAGED[what](tmp_path / "sam.pth")
    with pytest.raises(UserError, match=r"sam.pth is damaged or no checkpoint; expected .*download it again"):
        read_checkpoint(tmp_path / "sam.pth")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*; give --checkpoint an existing file"):
        read_checkpoint(tmp_path / name)


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    save_file(WEIGHTS, path)
    assert same(read_checkpoint(path), WEIGHTS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"sam.safetensors is damaged or no safetensors; expected .* again"):
        read_checkpoint(path)


def test_the_small_sam_is_shipped_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "urlopen", None)  # it must not be needed
    path = download(DEFAULT)
    assert path == own_weights(DEFAULT)
    assert path.stat().st_size < 16e6
    shipped, loaded = load_file(path), load_sam(DEFAULT, 512, None, random_weights=False).state_dict()
    assert all(value.dtype is torch.float16 for value in shipped.values())
    assert same({name: value.float() for name, value in shipped.items()}, loaded)
    assert all(value.isfinite().all() for value in loaded.values())


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # PyTorch, of pickles that it did not write
@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(tmp_path: Path, how: str) -> None:
    path, touched = tmp_path / "sam.pth", tmp_path / "touched"
    content = {"model": {"a": torch.ones(2)} if how != "pickle" else {}, "hook": Hostile(touched)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError, match="could run code, not only tensors; expected a PyTorch state dict"):
        read_checkpoint(path)
    assert not touched.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert touched.exists(), "it would have"


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "sam.pth")
    with pytest.raises(UserError, match="save its state_dict"):
        read_checkpoint(tmp_path / "sam.pth")


@pytest.mark.parametrize("content", [[1, 2], 3, {"a": 1}, {"model": {"a": "b"}}, torch.ones(3)])
def test_anything_but_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(UserError, match="not named tensors"):
        read_checkpoint(tmp_path / "sam.pth")


@pytest.mark.parametrize("content", [{1: torch.ones(3)}, {}, {"model": {}}])
def test_tensors_without_names_and_no_tensors_are_refused(tmp_path: Path, tiny: str, content: object) -> None:
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(UserError):
        load_sam(tiny, 64, tmp_path / "sam.pth", random_weights=False)


# Putting weights into a model


@pytest.fixture(scope="module")
def empty() -> dict[str, Any]:
    """SAM of every size, without data."""
    with torch.device("meta"):
        return {arch: build_sam(arch) for arch in ("vit_b", "vit_l", "vit_h")}


@pytest.mark.parametrize("asked", ["vit_b", "vit_l", "vit_h"])
@pytest.mark.parametrize("given", ["vit_b", "vit_l", "vit_h"])
def test_weights_of_another_architecture_name_the_right_one(
    empty: dict[str, Any], asked: str, given: str
) -> None:
    if asked == given:
        load_weights(empty[asked], empty[given].state_dict(), asked, "sam.pth")
        return
    with pytest.raises(UserError) as refused:
        load_weights(empty[asked], empty[given].state_dict(), asked, "sam.pth")
    message = str(refused.value)
    assert message.startswith(f"sam.pth is not a SAM {asked}: ")
    assert message.endswith(f"try --arch {given}")
    assert "have another shape (" in message
    assert ("are missing" in message) == (asked > given if "vit_b" in (asked, given) else asked == "vit_h")


def test_weights_of_another_patch_are_no_reason_to_try_their_width(empty: dict[str, Any]) -> None:
    weights = empty["vit_b"].state_dict()
    with torch.device("meta"):
        weights["image_encoder.patch_embed.proj.weight"] = torch.empty(768, 3, 8, 8)
    with pytest.raises(UserError) as refused:
        load_weights(empty["vit_b"], weights, "vit_b", "sam.pth")
    assert "1 have another shape (image_encoder.patch_embed.proj.weight is [768, 3, 8, 8]" in str(
        refused.value
    )
    assert "--arch" not in str(refused.value)


def test_weights_of_another_model_say_what_differs(empty: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        load_weights(empty["vit_b"], dict(WEIGHTS), "vit_b", "sam.pth")
    assert "tensors are missing (image_encoder.blocks.0." in str(refused.value)
    assert "2 are unknown (a.weight ..)" in str(refused.value)
    assert "--arch" not in str(refused.value)


def test_one_missing_tensor_is_named(empty: dict[str, Any]) -> None:
    weights = empty["vit_b"].state_dict()
    del weights["mask_decoder.iou_token.weight"]
    with pytest.raises(UserError, match=r"1 tensors are missing \(mask_decoder.iou_token.weight"):
        load_weights(empty["vit_b"], weights, "vit_b", "sam.pth")


def test_weights_reach_the_model_unchanged(tiny: str, tmp_path: Path) -> None:
    source = load_sam(tiny, 64, None, random_weights=True)
    extra = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    torch.save({"model": source.state_dict() | extra}, tmp_path / "sam.pth")
    loaded = load_sam(tiny, 64, tmp_path / "sam.pth", random_weights=False)
    assert same(loaded.state_dict(), source.state_dict())
    assert loaded.pixel_mean[0].item() == pytest.approx(123.675), "not the file's"
    assert not loaded.training


def test_a_checkpoint_for_1024_pixels_fits_a_model_for_512(
    tiny: str, photographs: Callable[[int], Tensor]
) -> None:
    """Relative positions become what SAM's own attention makes of the longer ones, exactly."""
    large, small = load_sam(tiny, 1024, None, random_weights=True), build_sam(tiny, 512)
    load_weights(small, large.state_dict(), tiny, "sam.pth")
    given, taken = large.state_dict(), small.state_dict()
    resized = [name for name in given if given[name].shape != taken[name].shape]
    assert resized == ["image_encoder.pos_embed"] + [
        f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in (1, 3) for axis in "hw"
    ]
    assert all(torch.equal(given[name], taken[name]) for name in given if name not in resized)
    assert torch.allclose(  # bicubic, every second place of a random field: a plain look at its values
        small.image_encoder.pos_embed,
        torch.nn.functional.interpolate(
            large.image_encoder.pos_embed.permute(0, 3, 1, 2), size=(32, 32), mode="bicubic"
        ).permute(0, 2, 3, 1),
        rtol=0,
        atol=0,
    )
    image = photographs(512)[:1]
    embedding = small.image_encoder(image)
    for block in (1, 3):
        attention = small.image_encoder.blocks[block].attn
        attention.rel_pos_h = large.image_encoder.blocks[block].attn.rel_pos_h
        attention.rel_pos_w = large.image_encoder.blocks[block].attn.rel_pos_w
    assert torch.equal(small.image_encoder(image), embedding)


# Downloading


@pytest.fixture
def server(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for Meta's server, and an empty cache."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(downloads, "META", folder.as_uri() + "/")
    monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path / "cache"))
    return folder


def everything_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_download_is_kept_and_not_repeated(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights" * 1000
    (server / "sam_tiny.pth").write_bytes(content)
    right = dataclasses.replace(ARCHITECTURES["tiny"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(ARCHITECTURES, "tiny", right)
    path = download("tiny")
    assert path == tmp_path / "cache" / "sam_tiny.pth"
    assert path.read_bytes() == content
    assert sha256(path) == right.sha256
    (server / "sam_tiny.pth").unlink()
    assert download("tiny") == path
    assert sorted(everything_below(tmp_path)) == [path, path.with_name("sam_tiny.pth.checked")]


@pytest.mark.parametrize("served", [None, b"", b"another file", b"weights" * 999])
def test_a_download_that_fails_leaves_nothing(server: Path, tmp_path: Path, served: bytes | None) -> None:
    """No such file, or not the file that was expected."""
    if served is not None:
        (server / "sam_tiny.pth").write_bytes(served)
    with pytest.raises(
        UserError, match=r"cannot download file:.*sam_tiny.pth \(.*\).*--checkpoint.*--random"
    ):
        download("tiny")
    assert everything_below(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("https://host", 403, "Forbidden", http.client.HTTPMessage(), None),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
        http.client.IncompleteRead(b""),
        http.client.BadStatusLine("captive portal"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_failure_of_the_network_is_one_line(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(downloads, "urlopen", fail)
    with pytest.raises(UserError, match=r"cannot download .*--checkpoint PATH .*--random-weights") as refused:
        download("tiny")
    assert "\n" not in str(refused.value)
    assert everything_below(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_one_line(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot download"):
        download("tiny")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STRUCTSAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "structsam"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "structsam"
    monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


# Meta's modules


IMPORT = """
import sys, types
from structsam_export.models.checkpoints import sam_modules
modeling = sam_modules()
assert "segment_anything" not in sys.modules, "they have a name of ours"
assert not any(name.partition(".")[0] == "torchvision" for name in sys.modules)
assert sam_modules() is modeling, "asked again, the same modules"

for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes",
             "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)  # so that the real package imports where it is not installed
functional, boxes = sys.modules["torchvision.transforms.functional"], sys.modules["torchvision.ops.boxes"]
functional.resize = functional.to_pil_image = boxes.batched_nms = boxes.box_area = None
import segment_anything
assert segment_anything.sam_model_registry, "the real package"
assert sam_modules() is modeling
assert segment_anything.modeling.Sam.__module__ == "segment_anything.modeling.sam"
assert modeling.Sam is not segment_anything.modeling.Sam
"""


def test_sams_modules_come_without_torchvision_and_leave_the_real_package_alone() -> None:
    """It comes whole to whoever imports it afterwards, with classes of its own."""
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_global_blocks_elsewhere_are_another_model(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = build_sam(tiny, 512)
    elsewhere = dataclasses.replace(ARCHITECTURES[tiny], global_blocks=(0, 2))
    monkeypatch.setitem(ARCHITECTURES, tiny, elsewhere)
    with pytest.raises(UserError, match="have another shape"):
        load_weights(build_sam(tiny, 512), other.state_dict(), tiny, "other.pth")
