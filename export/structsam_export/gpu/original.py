"""A SAM on the CPU in fp32, its copies in other forms and precisions, and their distance from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structsam_runtime.check import cosine, mask_ious
from structsam_runtime.contract import IMAGE, decoder_specs
from structsam_runtime.errors import NotFiniteError
from structsam_runtime.reference import within

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
from ..merging import MergePlan
from ..merging.kernels import TensorKernels
from ..models.checkpoints import load_sam
from ..rivals import fuse
from ..verify import Report, prompts, read_pictures, representatives, samples
from .layers import Merged

Plans = Mapping[int, tuple[Tensor, Tensor]]
"""Slot [B', N] and position [B', K] of every block that merges, int32 on the CPU."""


@dataclass(frozen=True)
class Own:
    """What the original computes for the first picture.

    Attributes:
        embedding: [1, E, H, W] fp32.
        masks: [P, 4, h, w] whether a pixel is in the mask, inside the picture.
    """

    embedding: Tensor
    masks: NDArray[np.bool_]


class Original:
    """A SAM that contestants are made from and compared with.

    Args:
        config: architecture, weights and image size.
        device: of the decoder, which computes in fp32; the encoder stays on the CPU.
    """

    def __init__(self, config: ExportConfig, device: str) -> None:
        self.device = device
        self.sam = load_sam(
            config.arch, config.image_size, config.checkpoint, config.random_weights, config.seed
        )
        self.model = model_of(config, self.sam)
        self.samples = samples(read_pictures(None), self.model)
        self.images = torch.from_numpy(np.concatenate([sample.feed[IMAGE] for sample in self.samples]))
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

    def layer(self, config: ExportConfig, kind: str) -> Merged:
        """The first `window` or `global` layer of a config that merges, with the photographs as input."""
        index = config.architecture.global_blocks[0] if kind == "global" else 0
        method: Any = config.methods()[index]
        windows = windows_of(self.sam.image_encoder)[index]
        return Merged(f"{kind} layer at rate {config.rate:g}", method, windows, self.entering)

    @cached_property
    def entering(self) -> Tensor:
        """[B, H, W, C] fp32, what the attention of the first block receives of the photographs."""
        return entering(self.sam.image_encoder, self.model, list(read_pictures(None).values()))

    @torch.no_grad()
    def report(self, config: ExportConfig, outputs: Sequence[Tensor], name: str) -> Report:
        """Compare what a contestant computed for the first picture with the original.

        Args:
            config: says which tokens merge.
            outputs: embedding [1, E, H, W], and the plans in the order of PlannedEncoder; none if nothing
                merges.
            name: of the contestant.

        Raises:
            NotFiniteError: the embedding contains NaN or infinity.
        """
        apply(self.sam.image_encoder, config.methods())
        embedding, *told = (output.detach().cpu() for output in outputs)
        embedding = embedding.float()
        if not embedding.isfinite().all():
            raise NotFiniteError("the embedding contains NaN or infinity")
        own = self._computed(config)
        indices = [one.index for one in told_plans(self.sam.image_encoder)]
        plans = dict(zip(indices, zip(told[::2], told[1::2], strict=True), strict=True))
        replayed, agreement = self._replay(plans) if plans else (own.embedding, {})
        ious = mask_ious(self._masks(embedding), own.masks)
        return Report(
            runner=name,
            images=[self.samples[0].name],
            error=(replayed - embedding).abs().max().item(),
            cosine=cosine(replayed.numpy(), embedding.numpy()),
            cosine_end_to_end=cosine(own.embedding.numpy(), embedding.numpy()),
            plans=sum(agreement.values()) / len(agreement) if agreement else None,
            plans_by_block=agreement,
            mask_iou=float(ious.mean()),
            mask_iou_min=float(ious.min()),
            prompts=len(ious),
        )

    def _computed(self, config: ExportConfig) -> Own:
        """The embedding and masks of the CPU, computed once for every merging."""
        if config.rate not in self._own:
            embedding, _ = embed(self.sam.image_encoder, self.images[:1])
            self._own[config.rate] = Own(embedding, self._masks(embedding))
        return self._own[config.rate]

    def _replay(self, plans: Plans) -> tuple[Tensor, dict[int, float]]:
        """The original's embedding with given plans, and how many tokens its own plans merge alike."""
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

    def _masks(self, embedding: Tensor) -> NDArray[np.bool_]:
        """[P, 4, h, w] of an embedding, for a grid of boxes and points, inside the picture."""
        frame = self.samples[0].frame
        feeds = prompts(frame, self.model.low_res)
        inputs = [
            torch.from_numpy(feeds[name]).to(self.device)
            for name in decoder_specs(self.model)[0]
            if name in feeds
        ]
        logits, _ = self.decoder(embedding.to(self.device), *inputs)
        return within(logits.cpu().numpy(), frame)


class _Single(nn.Module):
    """A module whose result is the only one of a tuple, as of PlannedEncoder."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.module(image),)
