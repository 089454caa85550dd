"""SAM with weights: built, found, and loaded safely."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structsam_runtime.digest import cache_folder, sha256
from structsam_runtime.errors import UserError

from .architectures import ARCHITECTURES, DEFAULT, Architecture
from .downloads import download, own_weights
from .family import FAMILIES
from .fitting import architecture_of, load_weights
from .names import recognise
from .reading import read_contents, weight_files

__all__ = [
    "architecture_named",
    "build_sam",
    "cache_folder",
    "download",
    "load_sam",
    "load_weights",
    "own_weights",
    "provenance",
    "randomize",
    "read_checkpoint",
    "sam_modules",
]


@cache
def sam_modules() -> Any:
    """`segment_anything.modeling`, without running the package's own `__init__`.

    That one imports torchvision, which only its predictor and mask generator need. The modules are loaded
    under a name of ours: whoever imports segment_anything beside us gets the real package, and its classes
    are not these.
    """
    found = importlib.util.find_spec("segment_anything")
    if found is None or found.submodule_search_locations is None:
        raise UserError('segment-anything is not installed; pip install "structsam[export]"')
    folder = Path(found.submodule_search_locations[0]) / "modeling"
    name = f"{__package__}.segment_anything"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    if spec is None or spec.loader is None:
        raise UserError(f"{folder} holds no Python package; reinstall segment-anything")
    modules = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(modules)
    return modules


def build_sam(arch: str | Architecture, image_size: int = 0) -> Any:
    """Meta's Sam with fresh weights, as its registry builds it, for any image size that patches divide.

    Args:
        arch: a name in ARCHITECTURES, or the sizes themselves.
        image_size: pixels of the square input; 0 is what the architecture's weights were made for.

    Returns:
        Sam, in eval mode.
    """
    modules, size = sam_modules(), arch if isinstance(arch, Architecture) else ARCHITECTURES[arch]
    image_size = image_size or size.image_size
    grid, pixels = size.grid(image_size), FAMILIES[size.family].pixels
    sam = modules.Sam(
        image_encoder=modules.ImageEncoderViT(
            img_size=image_size,
            patch_size=size.patch,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.heads,
            mlp_ratio=4,
            out_chans=size.width,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=size.window,
            global_attn_indexes=size.global_blocks,
        ),
        prompt_encoder=modules.PromptEncoder(
            embed_dim=size.width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=modules.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modules.TwoWayTransformer(
                depth=2,
                embedding_dim=size.width,
                mlp_dim=size.decoder_mlp,
                num_heads=size.decoder_heads,
            ),
            transformer_dim=size.width,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(pixels.mean),
        pixel_std=list(pixels.std),
    )
    return sam.eval().requires_grad_(False)


@torch.no_grad()
def randomize(sam: nn.Module, seed: int = 0) -> None:
    """Seed every parameter and buffer with values under which attention is far from uniform.

    Matrices get variance 1 / fan-in, so that activations stay of order one and logits have a spread of about
    one; relative positions add about as much again; normalisations scatter around one and zero; position
    embeddings are small beside the image's own features, so that plans follow the image.

    Args:
        sam: changed in place.
        seed: the same seed gives the same weights with the same PyTorch.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, deviation: float, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * deviation + mean

    for name, value in sam.state_dict().items():
        if "rel_pos" in name:
            value.copy_(normal(value.shape, 0.15))
        elif "pos_embed" in name:
            value.copy_(normal(value.shape, 0.02))
        elif "gaussian" in name:
            value.copy_(normal(value.shape, 1.0))
        elif value.dim() == 1:  # a bias, or a normalisation's scale
            value.copy_(normal(value.shape, 0.1, mean=float(name.endswith("weight"))))
        else:
            fan_in = math.prod(value.shape[1:])
            value.copy_(normal(value.shape, fan_in**-0.5))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by Meta's names, read without running any code in it.

    Takes every file that `reading` knows and every kind of model that `names` can read.

    Raises:
        UserError: no such file, not a checkpoint, cut short, one that wants to run code, or of another model.
    """
    return recognise(read_contents(path), str(path))[0]


def architecture_named(arch: str | None, checkpoint: Path | None) -> str:
    """The architecture that was asked for, else that of the checkpoint, else the default.

    Raises:
        UserError: the checkpoint is of none; see `architecture_of`.
    """
    if arch is not None or checkpoint is None:
        return arch or DEFAULT
    return architecture_of(read_checkpoint(checkpoint), str(checkpoint))


def provenance(path: Path) -> dict[str, str]:
    """What a manifest says of a checkpoint: its name, its hash, and the types that its numbers had.

    Args:
        path: a file, or a folder of `save_pretrained`, whose hash is that of its files' hashes.
    """
    hashes = [sha256(file) for file in weight_files(path)]
    both = hashlib.sha256("".join(hashes).encode()).hexdigest()
    types = {str(value.dtype).removeprefix("torch.") for value in read_checkpoint(path).values()}
    return {
        "source": path.name,
        "sha256": hashes[0] if len(hashes) == 1 else both,
        "dtype": ", ".join(sorted(types)),
    }


def load_sam(arch: str, image_size: int, checkpoint: Path | None, random_weights: bool, seed: int = 0) -> Any:
    """A Sam with the weights that were asked for; see `read_checkpoint`, `download` and `randomize`.

    What was interpolated or left out is a line on standard error.
    """
    sam = build_sam(arch, image_size)
    if random_weights:
        randomize(sam, seed)
        return sam
    path = checkpoint or download(arch)
    weights, left_out = recognise(read_contents(path), str(path))
    for line in [*left_out, *load_weights(sam, weights, arch, str(path))]:
        print(f"{path.name}: {line}", file=sys.stderr)
    return sam
