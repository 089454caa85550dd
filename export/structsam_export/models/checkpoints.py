"""SAM with weights: built, found, and loaded safely."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from structsam_runtime.digest import cache_folder
from structsam_runtime.errors import UserError

from .architectures import ARCHITECTURES, Architecture
from .family import FAMILIES

META = "https://dl.fbaipublicfiles.com/segment_anything/"
SHIPPED = Path(__file__).parents[1] / "weights"
"""Checkpoints that are part of this package."""


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


def own_weights(arch: str) -> Path:
    """Where an architecture's own checkpoint is, or will be once it was downloaded."""
    size = ARCHITECTURES[arch]
    return (cache_folder() if size.sha256 else SHIPPED) / size.file


def download(arch: str) -> Path:
    """An architecture's own checkpoint: shipped, from the cache, or from Meta, with a progress bar.

    Returns:
        The file. A download appears in the cache whole and checked by its hash, or not at all.

    Raises:
        UserError: no network, or not the file that was expected.
    """
    path, size = own_weights(arch), ARCHITECTURES[arch]
    if path.is_file():
        return path
    url = META + size.file
    instead = "use --checkpoint PATH for a file you have, or --random-weights to try without one"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=size.sha256, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # torch's word for a wrong hash is RuntimeError
        reason = " ".join(str(error).split())
        raise UserError(f"cannot download {url} ({reason}); {instead}") from error
    return path


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, read without running any code in it.

    Takes safetensors, a plain state dict (Meta, MedSAM) and one wrapped in {"model": ...} or
    {"state_dict": ...}, with or without DataParallel's "module." before the names.

    Raises:
        UserError: no such file, not a checkpoint, cut short, or one that wants to run code.
    """
    expected = "expected a PyTorch state dict of a SAM"
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; give --checkpoint an existing file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors; {expected}, download it again") from error
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise UserError(
                f"{path} holds Python objects that could run code, not only tensors; {expected}, "
                "so save its state_dict() alone"
            ) from error
        raise UserError(f"{path} is damaged or no checkpoint; {expected}, download it again") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path} is damaged or no checkpoint; {expected}, download it again") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    named = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    )
    if not named:
        raise UserError(f"{path} holds {type(loaded).__name__}, not named tensors; {expected}")
    return {name.removeprefix("module."): value for name, value in loaded.items()}


def load_weights(sam: nn.Module, weights: dict[str, Tensor], arch: str, source: str) -> None:
    """Put a checkpoint's tensors into a Sam of the same architecture, any image size.

    Position embeddings of another image size are interpolated (bicubic), relative positions of global blocks
    linearly, as SAM does itself.

    Raises:
        UserError: the file is not a SAM of that architecture; says what differs.
    """
    own = sam.state_dict()
    grid = _grid(weights)
    weights = {
        name: _resize(name, value, own[name].shape, grid) if name in own else value
        for name, value in weights.items()
        if name not in ("pixel_mean", "pixel_std")  # not parameters: Sam does not save them
    }
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    shaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or unknown or shaped:
        raise UserError(
            f"{source} is not a SAM {arch}: {_difference(own, weights, missing, unknown, shaped)}"
        )
    sam.load_state_dict(weights)


def _difference(
    own: dict[str, Tensor],
    weights: dict[str, Tensor],
    missing: list[str],
    unknown: list[str],
    shaped: list[str],
) -> str:
    """What a person needs to see of how two sets of tensors differ."""
    found = []
    if missing:
        found.append(f"{len(missing)} tensors are missing ({missing[0]} ..)")
    if unknown:
        found.append(f"{len(unknown)} are unknown ({unknown[0]} ..)")
    if shaped:
        name = shaped[0]
        found.append(
            f"{len(shaped)} have another shape ({name} is {list(weights[name].shape)}, "
            f"expected {list(own[name].shape)})"
        )
    fits = [arch for arch, size in ARCHITECTURES.items() if _first(weights) == (size.embed_dim, size.patch)]
    advice = f"; it has the width of {fits[0]}, so try --arch {fits[0]}" if fits and shaped else ""
    return ", ".join(found) + advice


def _first(weights: dict[str, Tensor]) -> tuple[int, int] | None:
    """C and the patch size of the encoder in a checkpoint, if it has one."""
    kernel = weights.get("image_encoder.patch_embed.proj.weight")  # [C, 3, p, p]
    return None if kernel is None or kernel.dim() != 4 else (kernel.shape[0], kernel.shape[-1])


def _grid(weights: dict[str, Tensor]) -> int | None:
    """Rows of the feature map that a checkpoint was trained on, if it is an encoder's."""
    embedding = weights.get("image_encoder.pos_embed")
    return embedding.shape[1] if embedding is not None and embedding.dim() == 4 else None


def _resize(name: str, value: Tensor, shape: torch.Size, grid: int | None) -> Tensor:
    """Fit a position embedding to another image size; everything else is left as it is.

    Only relative positions over the whole map change with it: others of a wrong length are a wrong model.
    """
    if value.dim() != len(shape) or value.shape == shape:
        return value
    if name.endswith("pos_embed") and value.shape[-1] == shape[-1]:  # [1, H, W, C]
        channels_first = value.permute(0, 3, 1, 2).float()
        return F.interpolate(channels_first, size=shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
    whole = grid is not None and value.shape[0] == 2 * grid - 1
    if "rel_pos" in name and whole and value.shape[-1] == shape[-1]:  # [2 side - 1, d]
        return F.interpolate(value.T[None].float(), size=shape[0], mode="linear")[0].T
    return value


def load_sam(arch: str, image_size: int, checkpoint: Path | None, random_weights: bool, seed: int = 0) -> Any:
    """A Sam with the weights that were asked for; see `read_checkpoint`, `download` and `randomize`."""
    sam = build_sam(arch, image_size)
    if random_weights:
        randomize(sam, seed)
    else:
        path = checkpoint or download(arch)
        load_weights(sam, read_checkpoint(path), arch, str(path))
    return sam
