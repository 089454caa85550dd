"""A SAM on the CPU in fp32, its copies in other forms and precisions, and their distance from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from structsam_runtime.contract import decoder_specs

from ..analysis.layers import entering
from ..choices import Attention, Precision
from ..config import ExportConfig
from ..description import model_of
from ..encoder.decoder import PromptedMaskDecoder
from ..encoder.exported import PlannedEncoder, told_plans
from ..encoder.kernels import use_kernels
from ..encoder.patch import apply, remove, windows_of
from ..encoder.walk import embed
from ..graph.precision import set_precision
from ..merging import MergePlan, StructSAM
from ..merging.kernels import TensorKernels
from ..models.checkpoints import load_sam
from ..rivals import fuse
from ..verify import Report, prompts, read_pictures, representatives, samples
from .layers import Merged

Plans = Mapping[int, tuple[Tensor, Tensor]]
"""Slot [B', N] and position [B', K] of every block that merges, int32 on the CPU."""


@dataclass(frozen=True)
class Own:
    """What the reference computes for the first picture.

    Attributes:
        embedding: [1, E, H, W] fp32.
        masks: [P, 4, h, w] whether a pixel is in the mask, inside the picture.
    """

    embedding: Tensor
    masks: Tensor


class Subject:
    """The reference of all contestants.

    Args:
        config: architecture, weights and image size.
        device: of the decoder, which computes in fp32; the encoder stays on the CPU.
    """

    def __init__(self, config: ExportConfig, device: str) -> None:
        self.config, self.device = config, device
        self.sam = load_sam(
            config.arch, config.image_size, config.checkpoint, config.random_weights, config.seed
        )
        self.model = model_of(config, self.sam)
        self.pictures = list(read_pictures(None).values())
        found = samples(read_pictures(None), self.model)
        self.images = torch.from_numpy(np.concatenate([sample.feed["image"] for sample in found]))
        self.frame = found[0].frame
        self.decoder = copy.deepcopy(PromptedMaskDecoder(self.sam).eval()).to(device)
        self._own: dict[float, Own] = {}

    def meta(self, fused: bool, precision: Precision) -> nn.Module:
        """Meta's encoder as it is, or with fused attention; in fp16 as a whole, as PyTorch's `half` does."""
        remove(self.sam.image_encoder)
        encoder = copy.deepcopy(self.sam.image_encoder)
        encoder = fuse(encoder) if fused else encoder
        return _Single(encoder.half() if precision is Precision.FP16 else encoder)

    def ours(self, config: ExportConfig, form: Attention, kernels: TensorKernels | None = None) -> nn.Module:
        """The merging encoder in the precision of the config; normalisations and plans stay fp32.

        Args:
            config: says which tokens merge, and the precision.
            form: of attention.
            kernels: plan, merge and unmerge by these, built for the device.
        """
        apply(self.sam.image_encoder, config.methods(), form=form)
        encoder = copy.deepcopy(self.sam.image_encoder)
        if kernels is not None:
            use_kernels(encoder, kernels)
        return set_precision(PlannedEncoder(encoder), config.precision)

    def layers(self, config: ExportConfig) -> list[Merged]:
        """A window layer and a global layer of a config that merges, with the photographs as input."""
        remove(self.sam.image_encoder)
        encoder = self.sam.image_encoder
        x = entering(encoder, self.model, self.pictures)
        made = []
        for kind, block in (("window", 0), ("global", config.architecture.global_blocks[0])):
            method = config.methods()[block]
            if isinstance(method, StructSAM):
                name = f"{kind} layer at rate {method.rate:g}"
                made.append(Merged(name, method, windows_of(encoder)[block], x))
        return made

    @torch.no_grad()
    def report(self, config: ExportConfig, outputs: Sequence[Tensor], name: str) -> Report:
        """Compare what a contestant computed for the first picture with the reference.

        Args:
            config: says which tokens merge.
            outputs: embedding [1, E, H, W], and the plans in the order of PlannedEncoder; none if nothing
                merges.
            name: of the contestant.

        Raises:
            ArithmeticError: the embedding contains NaN or infinity.
        """
        apply(self.sam.image_encoder, config.methods())
        embedding, *told = (output.detach().cpu() for output in outputs)
        embedding = embedding.float()
        if not embedding.isfinite().all():
            raise ArithmeticError("the embedding contains NaN or infinity")
        own = self._reference(config)
        indices = [one.index for one in told_plans(self.sam.image_encoder)]
        plans = dict(zip(indices, zip(told[::2], told[1::2], strict=True), strict=True))
        replayed, agreement = self._replay(plans) if plans else (own.embedding, {})
        masks = self._masks(embedding)
        union = (masks | own.masks).sum((2, 3))
        shared = (masks & own.masks).sum((2, 3))
        ious = torch.where(union == 0, 1.0, shared / union.clamp(min=1))
        return Report(
            runner=name,
            images=["skimage.coffee"],
            error=(replayed - embedding).abs().max().item(),
            cosine=_cosine(replayed, embedding),
            cosine_end_to_end=_cosine(own.embedding, embedding),
            plans=sum(agreement.values()) / len(agreement) if agreement else None,
            plans_by_block=agreement,
            mask_iou=ious.mean().item(),
            mask_iou_min=ious.min().item(),
            prompts=len(ious),
        )

    def _reference(self, config: ExportConfig) -> Own:
        """The embedding and masks of the CPU, computed once for every merging."""
        if config.rate not in self._own:
            embedding, _ = embed(self.sam.image_encoder, self.images[:1])
            self._own[config.rate] = Own(embedding, self._masks(embedding))
        return self._own[config.rate]

    def _replay(self, plans: Plans) -> tuple[Tensor, dict[int, float]]:
        """The reference's embedding with given plans, and how many tokens its own plans merge alike."""
        encoder, agreement = self.sam.image_encoder, {}

        def given(index: int, x: Tensor) -> list[MergePlan] | None:
            if index not in plans:
                return None
            (own,), (slot, position) = encoder.blocks[index].decide(x), plans[index]
            ours = representatives(own.slot.numpy(), own.position.numpy())
            same = ours == representatives(slot.numpy(), position.numpy())
            agreement[index] = float(same.mean())
            return [MergePlan.recorded(slot, position, encoder.blocks[index].method.reduction)]

        return embed(encoder, self.images[:1], given=given)[0], agreement

    def _masks(self, embedding: Tensor) -> Tensor:
        """[P, 4, h, w] of an embedding, for a grid of boxes and points, inside the picture."""
        frame, side = self.frame, self.model.low_res
        feeds = prompts(frame, side)
        inputs = {name: torch.from_numpy(values).to(self.device) for name, values in feeds.items()}
        names = [name for name in decoder_specs(self.model)[0] if name in inputs]
        logits, _ = self.decoder(embedding.to(self.device), *(inputs[name] for name in names))
        height, width = (
            -(-n * side // frame.image_size) for n in (frame.resized_height, frame.resized_width)
        )
        return (logits[..., :height, :width] > 0).cpu()


class _Single(nn.Module):
    """A module whose result is the only one of a tuple, as of PlannedEncoder."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.module(image),)


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return (a @ b / (a.norm() * b.norm())).item()
