"""Multiply-accumulates of SAM's image encoder, in the convention of the paper's tables.

The convention is fvcore's: matrix products and convolutions count one per multiply-accumulate, padded windows
count in full, layer normalisation counts five per element, and softmax, GELU, gathers and additions count
nothing. PyTorch's own counter runs on the meta device, so nothing is computed. It sees operators only, so the
steps of a block are counted one by one. Two costs are set here instead: the Sobel operator, which we compute
by additions, and the part of the attention's products that computes the relative position.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..encoder.attention import MergedBlock, layer_norm
from ..encoder.patch import grid_of, merged_blocks, remove
from ..encoder.walk import Plans
from ..merging import Windows
from ..models.architectures import ARCHITECTURES


@dataclass(frozen=True)
class BlockMacs:
    """Multiply-accumulates of one block for one image.

    Attributes:
        block: index of the block.
        kind: `window` or `global`.
        norm: both layer normalisations.
        qkv, scores, values, proj: steps of attention, on merged tokens.
        relative_position: products of every query with every row and every column of its window.
        mlp: the MLP, on all tokens or on merged ones.
        energy: the gradient, counted as two depthwise convolutions; central differences cost none, as in the
            paper's Table 5.
        similarity: products of tokens with tokens that decide what merges.
        averaging: products that compute means of a variable number of tokens; see `Mix`.
        widening: extra operations of our attention, not part of the totals: queries are multiplied with all
            distances at once, and products over pairs compute the relative position and the weight of keys.
        proj_before: cost of `proj` if tokens are unmerged before it, as in the authors' code.
        relative_position_before: cost of `relative_position` on all tokens.
    """

    block: int
    kind: str
    norm: int
    qkv: int
    scores: int
    values: int
    relative_position: int
    proj: int
    mlp: int
    energy: int
    similarity: int
    averaging: int
    widening: int
    proj_before: int
    relative_position_before: int

    @property
    def planning(self) -> int:
        """The cost of merging itself, from features to slots."""
        return self.energy + self.similarity + self.averaging

    @property
    def attention(self) -> int:
        """Attention among merged tokens; the relative position is counted as in the paper."""
        return self.qkv + self.scores + self.values + self.relative_position + self.proj


@dataclass(frozen=True)
class EncoderMacs:
    """Multiply-accumulates of an encoder for one image.

    Attributes:
        unmerged: cost of Meta's own encoder.
        stem: patch embedding and neck.
        blocks: cost of every block.
    """

    unmerged: int
    stem: int
    blocks: tuple[BlockMacs, ...]

    @property
    def merged(self) -> int:
        """The merged encoder without `planning`; tokens are unmerged after the projection."""
        return self.stem + sum(block.norm + block.attention + block.mlp for block in self.blocks)

    @property
    def planning(self) -> int:
        """Energy, similarity and averaging of all blocks."""
        return sum(block.planning for block in self.blocks)

    @property
    def total(self) -> int:
        """The encoder's cost in the tables: `merged` plus `planning`."""
        return self.merged + self.planning

    @property
    def widening(self) -> int:
        """Operations of our attention that are not counted in `total`."""
        return sum(block.widening for block in self.blocks)

    @property
    def unmerging_before_proj(self) -> int:
        """`total`, if tokens are unmerged before the projection, as in the authors' code."""
        return self.total + sum(block.proj_before - block.proj for block in self.blocks)

    @property
    def as_published(self) -> int:
        """The count that gives the paper's 347.8 and 1167.1 GMAC, with `bipartite` and block 0 unmerged.

        Tokens are unmerged before the projection; the relative position is computed on all tokens; averaging
        costs none, because the authors' code scatters; similarity is counted and the gradient is not.
        """
        more = sum(block.relative_position_before - block.relative_position for block in self.blocks)
        less = sum(block.averaging + block.energy for block in self.blocks)
        return self.unmerging_before_proj + more - less

    def as_json(self) -> dict[str, int]:
        """The entries of the manifest, in multiply-accumulates."""
        return {
            "unmerged": self.unmerged,
            "merged": self.merged,
            "planning": self.planning,
            "widening": self.widening,
        }


def encoder_macs(encoder: Any) -> EncoderMacs:
    """Count a patched encoder, and the same encoder without merging.

    Args:
        encoder: a patched ImageEncoderViT, on any device; it is not changed.

    Returns:
        Multiply-accumulates for one image.
    """
    encoder = _on_meta(encoder)
    grid = grid_of(encoder)
    image = torch.empty(1, 3, encoder.img_size, encoder.img_size, device="meta")
    x = torch.empty(1, grid, grid, encoder.patch_embed.proj.out_channels, device="meta")
    stem = count_macs(encoder.patch_embed, image) + count_macs(encoder.neck, x.permute(0, 3, 1, 2))
    prior = torch.empty(x.shape[:3], device="meta")
    plans, blocks = list[Plans](), list[BlockMacs]()
    known: dict[Hashable, int] = {}  # of blocks that cost alike, the first
    for index, block in enumerate(merged_blocks(encoder)):
        first = known.setdefault(_costs_alike(block), index)
        if first < index:
            plans.append(plans[first])
            blocks.append(dataclasses.replace(blocks[first], block=index))
            continue
        plans.append(block.decide(x, prior) if block.leader is None else plans[block.leader])
        blocks.append(block_macs(index, block, x, plans[index]))
    remove(encoder)
    sides = [block.window_size for block in encoder.blocks]  # all that Meta's blocks differ in
    own = {side: count_macs(encoder.blocks[sides.index(side)], x) for side in set(sides)}
    return EncoderMacs(stem + sum(own[side] for side in sides), stem, tuple(blocks))


def _costs_alike(block: MergedBlock) -> Hashable:
    """What the cost of a block depends on, in one encoder; the seed of its method is not part of it."""
    method: Any = block.method
    seeded = any(field.name == "seed" for field in dataclasses.fields(method))
    method = dataclasses.replace(method, seed=0) if seeded else method
    return block.windows, block.attends_in_windows, method, block.merge_mlp, block.decides


def block_macs(index: int, block: MergedBlock, x: Tensor, plans: Plans) -> BlockMacs:
    """Count one block, step by step.

    Args:
        index: index of the block.
        block: the block, on the meta device.
        x: [1, H, W, C] its input, on the meta device.
        plans: its plans, or those of its leader.
    """
    cut, attention = block.windows_of(torch.empty(x.shape[:3], device="meta")), block.attn
    tokens = [group.cut(x) for group in cut.groups]  # [windows, N, C] each
    slots = [torch.empty(*plan.position.shape, x.shape[3], device="meta") for plan in plans]
    merges = any(one.shape[1] < every.shape[1] for one, every in zip(slots, tokens, strict=True))
    qkv, proj = _sum(attention.project, slots), _sum(attention.proj, slots)
    relative = sum(_relative_position(block, one) for one in slots)
    widening = sum(_widening(block, one) for one in slots)
    where, sizes = [plan.position for plan in plans], [plan.size for plan in plans]
    executed = _sum(attention, slots, where, sizes)
    products = executed - qkv - proj - relative - widening
    fed = slots if block.merge_mlp else [x]  # input of norm2 and the MLP
    averaging = _sum(lambda plan, features: plan.merge(features), plans, tokens)
    return BlockMacs(
        block=index,
        kind="window" if block.attends_in_windows else "global",
        norm=_sum(lambda features: layer_norm(block.norm1, features), [x, *fed]),
        qkv=qkv,
        scores=products // 2,  # q . k and weights . v are the same product, transposed
        values=products // 2,
        relative_position=relative,
        proj=proj,
        mlp=_sum(block.mlp, fed),
        energy=block.method.energy_macs(block.windows, x.shape[-1]) if merges and block.decides else 0,
        similarity=count_macs(block.plans, x, cut) if block.decides else 0,
        averaging=2 * averaging if block.merge_mlp else averaging,  # the residual is averaged too
        widening=widening,
        proj_before=_sum(attention.proj, tokens),
        relative_position_before=sum(_relative_position(block, one) for one in tokens),
    )


def _sum(function: Callable[..., Any], *inputs: Iterable[Any]) -> int:
    """Multiply-accumulates of calls with each group of windows, in sum."""
    return sum(count_macs(function, *each) for each in zip(*inputs, strict=True))


def count_macs(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-accumulates of one call of a function with tensors on the meta device."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with torch.no_grad(), counter:
        function(*inputs)
    return int(counter.get_total_flops()) // 2  # PyTorch counts a multiply-accumulate as two


def _layer_norm(shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Five operations per element as in fvcore, doubled because the sum is halved."""
    return 2 * 5 * math.prod(shape)


def _relative_position(block: MergedBlock, tokens: Tensor) -> int:
    """Products of every query of every head with every row and every column, for tokens [B', K, C]."""
    return 2 * tokens.numel() * block.windows.side if block.attn.relative else 0


def _widening(block: MergedBlock, slots: Tensor) -> int:
    """Products that `_relative_position` does not count, for slots [B', K, C].

    Products with all 2 side - 1 distances of an axis, of which a slot needs only `side`; and the extra
    channels per pair of query and key in the forms that compute the bias in a product over pairs.
    """
    if not block.attn.relative:
        return 0
    number, side = slots.shape[1], block.windows.side
    pairs = len(slots) * block.attn.heads * number**2
    return 2 * slots.numel() * (side - 1) + pairs * block.attn.carried(number)


def _on_meta(encoder: nn.Module) -> Any:
    """A copy on the meta device; parameters are converted while copying, so their data is not duplicated."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    for block in merged_blocks(encoder):
        tensors += [*block.original.parameters()]
    memo = {id(t): nn.Parameter(t.to("meta"), requires_grad=False) for t in tensors}
    return copy.deepcopy(encoder, memo)


@dataclass(frozen=True)
class EnergyPrice:
    """A row of the paper's Table 5: the cost of deciding what merges in one layer.

    Attributes:
        kind: `global` or `window`.
        method: name in the table.
        macs: multiply-accumulates for one image of 1024 pixels.
    """

    kind: str
    method: str
    macs: int


def table_5() -> list[EnergyPrice]:
    """The six values of Table 5, recomputed from the operations that they count.

    On the mean over heads (64 channels for ViT-B and ViT-L), padding included: PiToMe compares all tokens
    with all tokens. StructSAM's rows include a comparison of all tokens with one token of every 2x2 cell, so
    they describe the authors' bipartite code and not Algorithm 1, which compares none. Sobel adds two
    depthwise convolutions; central differences cost none.
    """
    prices, side = [], ARCHITECTURES["vit_b"].window
    for kind, windows in (("global", Windows(64, 64, 64)), ("window", Windows(64, 64, side))):
        tokens = torch.empty(windows.per_image, windows.tokens, 64, device="meta")
        destinations = tokens[:, : windows.tokens // 4]
        planes = tokens.transpose(1, 2).reshape(-1, 64, windows.side, windows.side)
        kernel = torch.empty(64, 1, 3, 3, device="meta")
        sobel = 2 * count_macs(lambda x, w: F.conv2d(x, w, padding=1, groups=64), planes, kernel)
        central = count_macs(torch.matmul, tokens, destinations.transpose(1, 2))
        prices += [
            EnergyPrice(kind, "PiToMe", count_macs(torch.matmul, tokens, tokens.transpose(1, 2))),
            EnergyPrice(kind, "StructSAM (Central Diff)", central),
            EnergyPrice(kind, "StructSAM (Sobel)", central + sobel),
        ]
    return prices
