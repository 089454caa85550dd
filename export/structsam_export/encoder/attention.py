"""One transformer block of SAM's encoder with merging inside (paper figure 2).

    norm1 -> plan -> merge -> qkv -> attention with relative position -> proj -> unmerge -> + -> MLP

Unmerging after the projection gives the same numbers as before it, because the projection works row by
row, and projects only the merged tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..merging import MergePlan, Method, PromptedWindows, SplitWindows, Windows, unmerge_groups
from ..merging.index import count, take


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation with statistics and result in fp32, whatever the type of `x` [..., C]."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def relative_position_table(rel_pos: Tensor, side: int) -> Tensor:
    """SAM's relative position vectors for every pair of places on one axis.

    Args:
        rel_pos: [L, d], the vectors for distances -(L-1)/2 .. (L-1)/2; interpolated if L is not 2 side - 1,
            as SAM does for other image sizes.
        side: places on the axis.

    Returns:
        [side (query), d, side (key)]: entry (i, :, j) belongs to the distance i - j.
    """
    if rel_pos.shape[0] != 2 * side - 1:
        rel_pos = F.interpolate(rel_pos.T[None].float(), size=2 * side - 1, mode="linear")[0].T.to(
            rel_pos.dtype
        )
    place = count(side, rel_pos.device)
    distance = place[:, None] - place[None, :] + side - 1  # [query, key]
    return take(rel_pos, distance).transpose(1, 2)


class MergedAttention(nn.Module):
    """Multi-head attention among the slots of a plan, with SAM's decomposed relative position.

    The bias of a pair of slots is q . Rh[row_q - row_k] + q . Rw[column_q - column_k], with the row and
    column of each slot's `position`: exact for every kept token. Widened queries and keys carry it:

        query = [q, q . Rh[row_q - i] for every row i, q . Rw[column_q - j] for every column j]
        key   = [k * scale, 1 where i is row_k, 1 where j is column_k]

    The ones of a key pick exactly one term of each axis, so the product is the scaled logit plus the bias,
    and no [heads, K, K] bias is ever made or added.

    A slot may instead stand at the mean place of a cell. Its bias is then the mean over the cell's tokens, of
    the query as of the key, and since it is a sum over the axes, each axis is averaged alone: behind the rows
    (columns) of the window come those of the cells, with the mean of their vectors and the shares of their
    rows in place of a one.

    Args:
        attention: the block's own attention, whose parameters are shared, not copied.
        side: rows and columns of a window, in tokens.
        footprint: rows and columns of the cells at whose mean place slots of several tokens stand; 1 if all
            stand at their position.
        proportional: whether a key counts as often as its slot has tokens, by the logarithm of that number
            added to its logits (ToMe's proportional attention).
    """

    def __init__(self, attention: Any, side: int, footprint: int = 1, proportional: bool = False) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.side = side
        self.footprint, self.proportional = footprint, proportional
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.relative: bool = attention.use_rel_pos
        if self.relative:
            self.rel_pos_h: nn.Parameter = attention.rel_pos_h
            self.rel_pos_w: nn.Parameter = attention.rel_pos_w

    def forward(self, x: Tensor, position: Tensor, size: Tensor | None = None) -> Tensor:
        """Attention within every window.

        Args:
            x: [B', K, C] slots.
            position: [B', K] int32, grid index of each slot within its window.
            size: [B', K] int32, how many tokens each slot stands for; one each if not given.

        Returns:
            [B', K, C].
        """
        query, key, value = self.project(x)  # [B', K, heads, d] each, the key scaled
        key = key.permute(0, 2, 3, 1)  # [B', heads, d, K]
        if self.relative:
            row, column = self._places(position, size)
            rows, columns = self._bias(query, self.rel_pos_h, row), self._bias(query, self.rel_pos_w, column)
            query = torch.cat([query, rows, columns], 3)
            key = torch.cat([key, self._one_hot(row, column, key)], 2)
        logits = query.transpose(1, 2) @ key  # [B', heads, K, K]
        if self.proportional and size is not None:
            logits = logits + size.float().log().to(logits.dtype)[:, None, None]
        y = logits.softmax(-1) @ value.transpose(1, 2)
        projected: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return projected

    def project(self, x: Tensor) -> list[Tensor]:
        """Queries, scaled keys and values: [B', K, C] to three of [B', K, heads, d].

        Three products instead of one that is cut afterwards: a third of a weight costs nothing to cut, the
        result would be copied. The scale sits in the key's weights, so no pass over features applies it; it
        is a power of two where d is a power of four, and then rounds nothing.
        """
        weights = list(self.qkv.weight.chunk(3))
        biases = [None] * 3 if self.qkv.bias is None else list(self.qkv.bias.chunk(3))
        weights[1] = weights[1] * self.scale
        biases[1] = None if biases[1] is None else biases[1] * self.scale
        projected = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        return [features.view(*x.shape[:2], self.heads, -1) for features in projected]

    def _places(self, position: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
        """Places of the slots on both axes: [B', K] int32 rows and columns, those of cells from `side` on."""
        row, column = position // self.side, position % self.side
        if self.footprint == 1 or size is None:
            return row, column
        cell_row, cell_column = (self.side + place // self.footprint for place in (row, column))
        return torch.where(size > 1, cell_row, row), torch.where(size > 1, cell_column, column)

    def _with_cells(self, table: Tensor) -> Tensor:
        """What every place of an axis has [side, ...], and behind it the means of what each cell's have."""
        return torch.cat([table, table.view(-1, self.footprint, *table.shape[1:]).mean(1)])

    def _bias(self, query: Tensor, rel_pos: Tensor, place: Tensor) -> Tensor:
        """What a key at every place of one axis would add to each query's logits.

        Args:
            query: [B', K, heads, d], unscaled.
            rel_pos: [L, d] of that axis.
            place: [B', K] int32, the slots' places on it.

        Returns:
            [B', K, heads, side].
        """
        table = relative_position_table(rel_pos, self.side)
        if self.footprint > 1:
            table = self._with_cells(table)
        return query @ take(table, place)

    def _one_hot(self, row: Tensor, column: Tensor, key: Tensor) -> Tensor:
        """[B', K] rows and columns to [B', heads, 2 side, K] ones where they are, of the type of `key`."""
        place = torch.stack([row, column], 1)  # [B', 2, K]
        if self.footprint > 1:
            shares = self._with_cells(torch.eye(self.side, dtype=key.dtype, device=key.device))
            hot = take(shares, place).transpose(2, 3)  # [B', 2, side, K]
        else:
            hot = (place[:, :, None] == count(self.side, place.device)[:, None]).to(key.dtype)
        return hot.flatten(1, 2)[:, None].expand(-1, self.heads, -1, -1)


class MergedBlock(nn.Module):
    """A block of SAM's encoder whose attention sees the slots of a merge plan.

    Args:
        block: SAM's own block; its parameters are shared, and `original` gives it back.
        windows: how the block cuts the feature map.
        method: decides which tokens merge.
    """

    normalizes_in_fp32 = True  # itself, because the plan needs the result before it is rounded

    def __init__(self, block: Any, windows: Windows, method: Method) -> None:
        super().__init__()
        self.windows = windows
        self.method = method
        self.norm1 = block.norm1
        self.attn = MergedAttention(block.attn, windows.side, method.footprint, method.proportional)
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self._original = (block,)  # in a tuple, so that its parameters are not registered twice

    @property
    def original(self) -> nn.Module:
        """SAM's own block, untouched."""
        block: nn.Module = self._original[0]
        return block

    @property
    def attends_in_windows(self) -> bool:
        """Whether this is a window block; SAM marks global ones by a window size of 0."""
        return bool(self._original[0].window_size)

    def windows_of(self, prior: Tensor | None) -> Windows:
        """How the block cuts the map under a prior [B, H, W]; see `forward_with_plans`."""
        if prior is None:
            return self.windows
        height, width, side = self.windows.height, self.windows.width, self.windows.side
        if number := self.method.prompt_windows:
            return SplitWindows(height, width, side, prior, number)
        return PromptedWindows(height, width, side, prior)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C], without prompts."""
        return self.forward_with_plans(x)[0]

    def forward_with_plans(self, x: Tensor, prior: Tensor | None = None) -> tuple[Tensor, list[MergePlan]]:
        """One block, and what it merged.

        Args:
            x: [B, H, W, C].
            prior: [B, H, W] fp32, from 0 to 1 where a prompt is; None where there is none.

        Returns:
            [B, H, W, C], and the plan of every group of windows.
        """
        features = layer_norm(self.norm1, x)  # fp32, so that the plan does not see fp16's rounding
        if prior is None and self.method.prompt_windows:
            prior = features.new_zeros(features.shape[:3])
        windows = self.windows_of(prior)
        plans = [self.method.plan(features, group) for group in windows.groups]
        x = x + self._attend(features.to(x.dtype), windows, plans)
        return x + self.mlp(layer_norm(self.norm2, x).to(x.dtype)), plans

    def _attend(self, features: Tensor, windows: Windows, plans: Sequence[MergePlan]) -> Tensor:
        """Merge, attention, unmerge: [B, H, W, C] to [B, H, W, C]."""
        batch, device = features.shape[0], features.device
        source = windows.source(features.flatten(0, 2))
        slots = [
            self.attn(plan.merge_rows(source, group.rows(batch, device)), plan.position, plan.size)
            for group, plan in zip(windows.groups, plans, strict=True)
        ]
        return unmerge_groups(plans, slots, windows.token_of_row(batch, device)).view(features.shape)
