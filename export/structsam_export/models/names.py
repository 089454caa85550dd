"""What a checkpoint is, by the names of its tensors, and how they become the names that Meta gave them.

Every kind of checkpoint that is known is one row of KINDS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from structsam_runtime.errors import UserError

from .fitting import not_a_weight
from .reading import Contents

Weights = dict[str, Tensor]

WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""What PyTorch's wrappers of modules put into names, wherever they stand."""
ROOTS = ("image_encoder", "vision_encoder", "prompt_encoder", "mask_decoder", "shared_image_embedding")
"""Parts of a SAM: what stands before the first of them in a name is a prefix."""
PARAMETERS = re.compile(
    r"(\.|^)(weight|bias|\w*pos_embed|rel_pos_[hw]|\w*gaussian_matrix|positional_embedding)$"
)
"""How names of a SAM's tensors end. What optimizers keep of them ends in another way."""
FIRST = ("model", "state_dict")
"""Wrappers that are taken without asking where a file holds several models."""
_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
        name: of the model, as people call it.
        marks: expressions that each fit some name, of a tensor or of a Python class.
        lacks: expressions that fit none.
        advice: what to do with a kind that cannot be read; empty for one that can.
        rename: gives its tensors the names and layouts of Meta's.
    """

    name: str
    marks: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    advice: str = ""
    rename: Callable[[Weights], Weights] = dict

    def fits(self, names: str) -> bool:
        """Whether names, one a line, are of this kind."""
        return all(re.search(mark, names, re.M) for mark in self.marks) and not any(
            re.search(mark, names, re.M) for mark in self.lacks
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two weights hold the same; what are no weights is told when they are loaded."""
    if any(not_a_weight(value) or value.is_meta for value in (one, other)):
        return True
    return torch.equal(one.float(), other.float())


def _from_hugging_face(weights: Weights) -> Weights:
    """Meta's names of a `transformers.SamModel`, whose layouts are Meta's.

    Raises:
        UserError: positions of the image and of prompts are two, where SAM has one.
    """
    image, prompts = (
        weights.get(f"{part}.positional_embedding")
        for part in ("shared_image_embedding", "prompt_encoder.shared_embedding")
    )
    if image is not None and prompts is not None and not _equal(image, prompts):
        raise UserError(
            "shared_image_embedding and prompt_encoder.shared_embedding differ in the checkpoint, and a SAM "
            "has one for both; expected the same values"
        )
    hidden = Counter(found[1] for name in weights if (found := re.match(r"(.+)\.layers\.\d+\.weight$", name)))
    return {_meta_name(name, hidden): value for name, value in weights.items()}


_PARTS = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$", _MATRIX),
        (r"^vision_encoder\.", "image_encoder."),
        (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^image_encoder\.layers\.", "image_encoder.blocks."),
        (r"^image_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
        (r"^image_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
        (r"^image_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
        (r"^image_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        (r"\.layer_norm(?=\d|_final)", ".norm"),
    )
)
"""Names of Hugging Face's and Meta's, replaced from the first to the last."""
_MLP = re.compile(
    r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.(proj_in|proj_out|layers\.(\d+))\."
)


def _meta_name(name: str, hidden: Mapping[str, int]) -> str:
    """Meta's name of one of Hugging Face's tensors.

    Args:
        name: of the tensor.
        hidden: layers between the first and the last one of every MLP, by its name.
    """
    if found := _MLP.match(name):
        mlp, part, layer = found.groups()
        index = {"proj_in": 0, "proj_out": hidden[mlp] + 1}.get(part, int(layer or 0) + 1)
        return f"{mlp}.layers.{index}.{name[found.end() :]}"
    for pattern, ours in _PARTS:
        name = pattern.sub(ours, name)
    return name


_PLAIN = "export a SAM with Meta's ViT encoder instead"
KINDS = (
    Kind(
        "SAM with LoRA layers",
        (r"(^|[._])lora(_|[AB]\b)|(^|\.)w_[ab]_\d+$|(^|\.)linear_[ab]_[qkv]\b|\.base_layer\.",),
        advice="merge them into the weights first (PEFT: model.merge_and_unload(); else W += scale * B @ A "
        "for each layer), and save the state_dict() of the merged model",
    ),
    Kind(
        "SAM with adapters",
        (r"(?i)(^|[._])\w*adapter\w*\.|(^|\.)prompt_generator\.",),
        advice="adapters are layers of their own, which no merging into the weights removes; " + _PLAIN,
    ),
    Kind("MobileSAM, whose encoder is TinyViT", (r"(^|\.)patch_embed\.seq\.",), advice=_PLAIN),
    Kind(
        "HQ-SAM",
        (r"(^|\.)(hf_token|hq_token|compress_vit_feat)\.",),
        advice="its decoder needs features of early blocks; all else in it is Meta's SAM unchanged, so give "
        "Meta's checkpoint of the same size",
    ),
    Kind("SAM 3", (r"(^|\.)(detector|detector_model)\.\w+",), advice=_PLAIN),
    Kind(
        "SAM 2",
        (r"(^|\.)(image_encoder\.trunk|sam_mask_decoder|memory_attention|vision_encoder\.backbone)\.",),
        advice=_PLAIN,
    ),
    Kind("EfficientViT-SAM", (r"(^|\.)image_encoder\.backbone\.stages\.",), advice=_PLAIN),
    Kind("EfficientSAM", (r"(^|\.)prompt_encoder\.(invalid_points|bbox_top_left)\w*\.",), advice=_PLAIN),
    Kind("EdgeSAM or RepViT-SAM", (r"(^|\.)image_encoder\.features\.",), advice=_PLAIN),
    Kind("FastSAM or another YOLO", (r"^ultralytics\.|(^|\.)(\d+|head)\.proto\.cv1\.",), advice=_PLAIN),
    Kind(
        "Hugging Face's SamModel",
        (r"^vision_encoder\.layers\.", r"^mask_decoder\."),
        rename=_from_hugging_face,
    ),
    Kind("Segment Anything", (r"^image_encoder\.blocks\.", r"^mask_decoder\.")),
    Kind(
        "an image encoder alone",
        (r"(^|\.)patch_embed\.",),
        (r"(^|\.)mask_decoder\.",),
        "save the state_dict() of the whole SAM, with its prompt encoder and mask decoder",
    ),
    Kind(
        "a mask decoder alone",
        (r"(^|\.)(mask_decoder|iou_token|mask_tokens|iou_prediction_head)\.",),
        (r"(^|\.)(image|vision)_encoder\.",),
        "save the state_dict() of the whole SAM, with its image encoder",
    ),
    Kind(
        "a SAM whose image encoder is none of Meta's",
        (r"(^|\.)(image|vision)_encoder\.",),
        (r"^(image_encoder\.blocks|vision_encoder\.layers)\.",),
        _PLAIN,
    ),
)
"""Kinds of checkpoints; the first that fits counts."""


def recognise(contents: Contents, source: str) -> tuple[Weights, list[str]]:
    """The model in what a file holds.

    Args:
        contents: of the file.
        source: the file, for messages.

    Returns:
        Its weights under Meta's names, and what has been left out, in words. Names of no kind that is known
        stay as they are, without what they have in common.

    Raises:
        UserError: a kind that cannot be read, more than one model, or Python objects without any tensors.
    """
    tensors = _unwrapped(contents.tensors, source)
    prefix = _prefix(tensors, source)
    own = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    rest = [name for name in tensors if not name.startswith(prefix)]
    names = "\n".join([*own, *rest, *contents.objects])
    kind = next((kind for kind in KINDS if kind.fits(names)), None)
    if kind and kind.advice:
        raise UserError(f"{source} is {kind.name}, not a SAM that can be read: {kind.advice}")
    if not own or (kind is None and any(name.startswith("torch.nn.modules.") for name in contents.objects)):
        objects = ", ".join(sorted(contents.objects)[:3])
        raise UserError(
            f"{source} holds Python objects ({objects}), not named tensors; expected a PyTorch state dict of "
            "a SAM, so save its state_dict() alone"
        )
    left_out = [f"not read: {', '.join(_tops(rest))}"] if rest else []
    return (kind.rename(own) if kind else own), left_out


def _unwrapped(tensors: Mapping[str, Tensor], source: str) -> Weights:
    """The same without what wrappers of modules put into names."""
    unwrapped: Weights = {}
    for name, value in tensors.items():
        plain = WRAPPERS.sub("", name)
        if plain in unwrapped:
            raise UserError(f"{source} has two tensors named {plain}, once in a wrapper; save one of them")
        unwrapped[plain] = value
    return unwrapped


def _prefix(names: Iterable[str], source: str) -> str:
    """What stands before the names of the model: of the longest list of a SAM's parts, or all names' own.

    Raises:
        UserError: more than one model, and none is in a wrapper that is taken without asking.
    """
    found: Counter[str] = Counter()
    for name in filter(PARAMETERS.search, names):
        parts = name.split(".")
        root = next((place for place, part in enumerate(parts) if part in ROOTS), None)
        if root is not None:
            found["".join(f"{part}." for part in parts[:root])] += 1
    if not found:
        return _common([name.split(".")[:-1] for name in names])
    most = max(found.values())
    models = [prefix for prefix, count in found.items() if count == most]
    if len(models) > 1:
        usual = [prefix for prefix in models if prefix.partition(".")[0] in FIRST]
        if len(usual) != 1:
            held = " and ".join(prefix.rstrip(".") or "names without a prefix" for prefix in models)
            raise UserError(f"{source} holds {len(models)} models, {held}; save the one that you mean alone")
        models = usual
    return models[0]


def _common(paths: list[list[str]]) -> str:
    """What all paths begin with, ended by a dot."""
    shortest, longest = min(paths, default=[]), max(paths, default=[])
    same = next(
        (place for place, (one, other) in enumerate(zip(shortest, longest, strict=False)) if one != other),
        min(len(shortest), len(longest)),
    )
    return "".join(f"{part}." for part in shortest[:same])


def _tops(names: Iterable[str]) -> list[str]:
    """The first keys of names, each once, at most four."""
    tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return tops[:4] + ([".."] if len(tops) > 4 else [])
