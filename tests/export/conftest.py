"""A small SAM, photographs to run it on, and exports of it that all tests share."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest
import skimage.data
import torch
from filelock import FileLock
from rich.console import Console
from torch import Tensor, nn

from structsam_export import pipeline
from structsam_export.config import ExportConfig
from structsam_export.encoder.decoder import PromptedMaskDecoder
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.checkpoints import randomize, sam_modules
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare
from structsam_runtime.progress import Progress

BuildEncoder = Callable[..., Any]
Photographs = Callable[[int], Tensor]
Exported = Callable[..., Path]

ROOT = Path(__file__).parents[2]

TINY = Architecture(
    embed_dim=64, depth=4, heads=2, global_blocks=(1, 3), file="sam_tiny.pth", sha256="0" * 64
)


@pytest.fixture(scope="session")
def tiny_architecture() -> Architecture:
    """SAM's structure at its smallest."""
    return TINY


@pytest.fixture(scope="session")
def tiny() -> Iterator[str]:
    """An architecture like SAM's in everything but its size, known to every command from here on.

    So is "two", which has a block of each kind: what is traced costs half.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", TINY)
        patch.setitem(ARCHITECTURES, "two", replace(TINY, depth=2, global_blocks=(1,)))
        yield "tiny"


@pytest.fixture(scope="session")
def quiet() -> Progress:
    """A progress display that nobody sees."""
    return Progress(Console(quiet=True))


def _version() -> str:
    """Hash of all that an export depends on: the sources, this file, and the libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for folder in ("export", "runtime", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for library in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> Path:
    """Where exports and decoders are kept, in pytest's cache, until a source file or a library changes."""
    folder: Path = request.config.cache.mkdir("exports") / _version()
    folder.mkdir(exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def kept_decoders(store: Path) -> Iterator[None]:
    """Every export reads a decoder that an export has traced before, of the same weights and settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "traced", _keeping_decoders(store))
        yield


def _keeping_decoders(store: Path) -> Callable[..., onnx.ModelProto]:
    """`pipeline.traced`, which reads a decoder that it has traced before."""
    trace = pipeline.traced

    def traced(config: ExportConfig, module: nn.Module, inputs: Any, *how: Any) -> onnx.ModelProto:
        if not isinstance(module, PromptedMaskDecoder):
            return trace(config, module, inputs, *how)
        shapes = {name: value.shape for name, value in inputs.items()}
        settings = (config.family, config.image_size, config.precision.around, config.dialect.opset, shapes)
        digest = hashlib.sha256(repr((module, settings, how)).encode())
        for weight in module.state_dict().values():
            digest.update(weight.numpy().tobytes())
        path = store / f"decoder-{digest.hexdigest()[:16]}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                onnx.save(trace(config, module, inputs, *how), whole := path.with_suffix(".part"))
                whole.rename(path)
        return onnx.load(path)

    return traced


@pytest.fixture(scope="session")
def exported(store: Path, tiny: str, quiet: Progress) -> Exported:
    """Exports a SAM of two blocks at 320 pixels: `exported(**arguments of ExportConfig.of)` gives the folder.

    The same arguments give the same folder, which tests only read, for all workers and for later runs.
    """

    def export(**changes: Any) -> Path:
        config = ExportConfig.of(**{"arch": "two", "random_weights": True, "image_size": 320} | changes)
        arguments = json.dumps(config.as_json(), sort_keys=True)
        folder = store / hashlib.sha256(arguments.encode()).hexdigest()[:16] / config.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / "lock"):
            if not folder.exists():
                pipeline.export(config, folder, None, False, quiet)
        return folder

    return export


@pytest.fixture(scope="session")
def build_encoder() -> BuildEncoder:
    """Meta's ImageEncoderViT, small, with seeded weights: `build_encoder(image_size, **changes)`."""

    def build(image_size: int, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": 16,
            "embed_dim": TINY.embed_dim,
            "depth": TINY.depth,
            "num_heads": TINY.heads,
            "out_chans": 32,
            "use_rel_pos": True,
            "window_size": 14,
            "global_attn_indexes": TINY.global_blocks,
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        }
        encoder = sam_modules().ImageEncoderViT(**settings | changes)
        randomize(encoder)
        return encoder.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def photographs(sam: Model) -> Photographs:
    """Three photographs as the encoder takes them: `photographs(image_size)` is [3, 3, S, S]."""

    def read(image_size: int) -> Tensor:
        grid = image_size // 16
        model = replace(sam, image_size=image_size, embedding=(256, grid, grid), low_res=4 * grid)
        pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
        return torch.cat([torch.from_numpy(prepare(picture, model)[0]) for picture in pictures])

    return read
