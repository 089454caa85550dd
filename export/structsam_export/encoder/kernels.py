"""The encoder in PyTorch with the kernels in the place of PyTorch's planning, merging and unmerging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..merging import MergePlan
from ..merging.kernels import TensorKernels, layer_of
from ..merging.reduction import Pick
from .attention import MergedBlock, layer_norm
from .patch import merged_blocks


class KernelBlock(MergedBlock):
    """A `MergedBlock` that plans, merges, unmerges and adds the residual by four kernels.

    Args:
        block: the block to replace, whose method has kernels; its modules are shared.
        kernels: built for the device that the block runs on.
    """

    def __init__(self, block: MergedBlock, kernels: TensorKernels) -> None:
        super().__init__(block.original, block.windows, block.method, form=block.attn.form)
        self.kernels = kernels
        method: Any = block.method
        size = torch.ones(method.slots(self.windows), dtype=torch.int32)
        size[: method.merged(self.windows)] = method.cell**2  # merged cells come first
        self.size: Tensor
        self.register_buffer("size", size, persistent=False)

    def forward_with_plans(
        self, x: Tensor, prior: Tensor | None = None, plans: Sequence[MergePlan] | None = None
    ) -> tuple[Tensor, Sequence[MergePlan]]:
        """[B, H, W, C] to [B, H, W, C], and the plan, whose rule picks `position`; see `MergedBlock`.

        Raises:
            ValueError: a prior or plans are given, which the kernels do not take.
        """
        if prior is not None or plans is not None:
            raise ValueError("the kernels make their own plans, without a prior")
        method: Any = self.method
        layer = layer_of(method, self.windows, x.shape)
        features = layer_norm(self.norm1, x)
        slot, token, position = self.kernels.select(layer, *self.kernels.score(layer, features))
        slots = self.kernels.merge(layer, features.to(x.dtype), token)
        x = self.kernels.unmerge(layer, self.attn(slots, position), slot, x)
        plan = MergePlan(slot, position, self.size.expand_as(position), Pick(position))
        return x + self._mlp(x), [plan]


def use_kernels(encoder: Any, kernels: TensorKernels) -> None:
    """Replace the merging blocks of a patched ImageEncoderViT whose method has kernels, in place."""
    for index, block in enumerate(merged_blocks(encoder)):
        merges = block.method.slots(block.windows) < block.windows.tokens
        if merges and block.decides and block.method.has_kernels and not block.merge_mlp:
            encoder.blocks[index] = KernelBlock(block, kernels)
