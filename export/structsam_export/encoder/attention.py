"""One transformer block of SAM's encoder with merging inside (paper figure 2).

    norm1 -> plan -> merge -> qkv -> attention with relative position -> proj -> unmerge -> + -> MLP

Unmerging after the projection gives the same numbers as before it, because the projection works row by
row, and projects only the merged tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import Attention
from ..merging import MergePlan, Method, PromptedWindows, SplitWindows, Windows, unmerge_groups
from ..merging.index import count, take
from . import forms


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation of `x` [..., C], any type, with fp32 statistics and an fp32 result."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def relative_positions(rel_pos: Tensor, side: int, footprint: int = 1) -> Tensor:
    """SAM's relative position vectors of one axis, interpolated as SAM does for other image sizes.

    Args:
        rel_pos: [L, d], the vectors for distances -(L-1)/2 .. (L-1)/2.
        side: number of positions on the axis.
        footprint: side of a cell in tokens if merged cells take their mean position, else 1.

    Returns:
        [2 side - 1, d], for distances -(side - 1) .. side - 1. With `footprint` > 1, followed by the means of
        `footprint` consecutive vectors, [2 side - footprint, d].
    """
    if rel_pos.shape[0] != 2 * side - 1:
        resized = F.interpolate(rel_pos.T[None].float(), size=2 * side - 1, mode="linear")[0].T
        rel_pos = resized.to(rel_pos.dtype)
    if footprint == 1:
        return rel_pos
    return torch.cat([rel_pos, rel_pos.unfold(0, footprint, 1).mean(2)])


def distances(side: int, footprint: int = 1) -> Tensor:
    """Indices into `relative_positions` from each position of a window to every row and every column.

    Args:
        side: rows and columns of the window.
        footprint: see `relative_positions`.

    Returns:
        [side * side, 2 side] int32: entry (p, i) is the index of the distance row_p - i in
        `relative_positions` of the rows, entry (p, side + j) that of column_p - j in those of the columns,
        which follow. With `footprint` > 1, followed by the cells in raster order,
        [(side / footprint)^2, 2 side].
    """
    place = count(side, torch.device("cpu"))
    axes, vectors = [place[:, None] - place + side - 1], 2 * side - 1  # [place, key]
    if footprint > 1:
        axes.append(vectors + place[::footprint, None] - place + side - 1)  # from a cell's first position
        vectors += 2 * side - footprint
    return torch.cat([_grid(axis, axis + vectors) for axis in axes])


def shares(side: int, footprint: int = 1) -> Tensor:
    """One-hot row and column of each position of a window.

    Args:
        side: rows and columns of the window.
        footprint: see `relative_positions`.

    Returns:
        [side * side, 2 side] fp32: a one at the position's row, and at side + its column. With `footprint`
        > 1, followed by the cells in raster order, [(side / footprint)^2, 2 side], with 1 / footprint at each
        of their rows and columns.
    """
    eye = torch.eye(side)
    axes = [eye] if footprint == 1 else [eye, eye.view(-1, footprint, side).mean(1)]
    return torch.cat([_grid(axis, axis) for axis in axes])


def _grid(rows: Tensor, columns: Tensor) -> Tensor:
    """Concatenate the entries of rows and columns, [n, side] each, for every pair: [n * n, 2 side]."""
    number = len(rows)
    return torch.cat([rows.repeat_interleave(number, 0), columns.repeat(number, 1)], 1)


class MergedAttention(nn.Module):
    """Multi-head attention among the slots of a plan, with SAM's decomposed relative position.

    The bias of a pair of slots is q . Rh[row_q - row_k] + q . Rw[column_q - column_k], with the row and
    column of each slot's `position`: exact for every kept token. One small matrix product gives the products
    of every query with all distances; each slot gathers those to the rows and columns of the window.

    A merged slot may instead take the mean position of its cell. Its bias is then the mean over the cell's
    tokens, for the query and for the key. The bias is a sum over two axes, so each axis is averaged
    separately: for the query the mean of consecutive vectors is one more vector, and for the key the one-hot
    row becomes a share of each of its rows.

    Args:
        attention: SAM's attention of the block; its parameters are shared, not copied.
        side: rows and columns of a window, in tokens.
        footprint: side, in tokens, of the cells whose mean position merged slots take; 1 if every slot takes
            its `position`.
        proportional: adds log(size) of a slot to the logits of its key (ToMe's proportional attention).
        form: the form in which attention with relative position is computed.

    Raises:
        ValueError: the form does not support mean positions.
    """

    def __init__(
        self,
        attention: Any,
        side: int,
        footprint: int = 1,
        proportional: bool = False,
        form: Attention = Attention.WIDENED,
    ) -> None:
        super().__init__()
        if footprint > 1 and form is Attention.GATHER:
            raise ValueError("attention in the form gather does not support place=mean; use another form")
        self.heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.side = side
        self.footprint, self.proportional, self.form = footprint, proportional, form
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.relative: bool = attention.use_rel_pos
        if self.relative:
            self.rel_pos_h: nn.Parameter = attention.rel_pos_h
            self.rel_pos_w: nn.Parameter = attention.rel_pos_w
            self.distance: Tensor
            self.register_buffer("distance", distances(side, footprint), persistent=False)
            self.shares: Tensor
            self.register_buffer("shares", shares(side, footprint), persistent=False)

    def forward(self, x: Tensor, position: Tensor, size: Tensor | None = None) -> Tensor:
        """Attention within every window.

        Args:
            x: [B', K, C] slots.
            position: [B', K] int32, grid index of each slot within its window; in raster order if K = side^2
                (nothing merges).
            size: [B', K] int32, number of tokens in each slot; 1 each if not given.

        Returns:
            [B', K, C].
        """
        query, key, value = self.project(x)  # [B', heads, K, d] each
        weight = size.float().log().to(x.dtype) if self.proportional and size is not None else None
        if self.relative:
            bias = self._bias(query, self._place(position, size), weight)
            attend = forms.form(self.form, x.shape[1], self.side, query.shape[3])
            y = attend(query, key, value, bias)
        else:
            logits = query @ key.transpose(2, 3)
            y = forms.plain(logits if weight is None else logits + weight[:, None, None], value)
        y = y.transpose(1, 2).flatten(2)
        return self._rows(self.proj, y)

    def project(self, x: Tensor) -> list[Tensor]:
        """Queries, scaled keys and values: [B', K, C] to three of [B', heads, K, d].

        The scale 1 / sqrt(d) is folded into the key's weights, which saves a pass over features; if d is a
        power of four it is a power of two, and exact. One product and one transpose for all three. A layer in
        the place of SAM's, as `graph/quantize.py` puts there, has this scale in its own weights.
        """
        projected = self._rows(self._scaled_qkv if isinstance(self.qkv, nn.Linear) else self.qkv, x)
        features = projected.view(*x.shape[:2], 3 * self.heads, -1).transpose(1, 2)
        return list(features.chunk(3, 1))

    def _scaled_qkv(self, rows: Tensor) -> Tensor:
        weight, bias = self.scaled(self.qkv.weight), self.qkv.bias
        return F.linear(rows, weight, None if bias is None else self.scaled(bias))

    def scaled(self, qkv: Tensor) -> Tensor:
        """A weight or a bias [3 C, ...] of qkv with the part of the keys scaled."""
        query, key, value = qkv.chunk(3)
        return torch.cat([query, key * self.scale, value])

    @staticmethod
    def _rows(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A linear layer on [B', K, C], as rows, because ONNX's Gemm, which adds the bias, takes matrices."""
        return layer(x.flatten(0, 1)).view(*x.shape[:2], -1)

    def _place(self, position: Tensor, size: Tensor | None) -> Tensor:
        """Row of each slot in `distances` and `shares`, [B', K] int32: its position, or its cell."""
        if self.footprint == 1 or size is None:
            return position
        row, column = position // self.side // self.footprint, position % self.side // self.footprint
        cell = self.side**2 + row * (self.side // self.footprint) + column
        return torch.where(size > 1, cell, position)

    def carried(self, slots: int) -> int:
        """Extra channels per pair of K slots that compute the bias; see `forms.carried`."""
        if not self.relative:
            return 0
        return forms.carried(
            self.form, slots, self.side, self.qkv.weight.shape[1] // self.heads, self.proportional
        )

    def _bias(self, query: Tensor, place: Tensor, weight: Tensor | None) -> forms.Bias:
        """The bias of queries [B', heads, K, d] and slots at `place` [B', K]; `weight` [B', K] is of keys."""
        index = take(self.distance, place[:, None].expand(-1, self.heads, -1))
        return forms.Bias(self.side, self._relative(query, index), self.shares, place, weight)

    def _relative(self, query: Tensor, index: Tensor) -> Tensor:
        """The bias of each query for a key in every row, and for a key in every column.

        Args:
            query: [B', heads, K, d], unscaled.
            index: [B', heads, K, 2 side] int32, rows of `distances`.

        Returns:
            [B', heads, K, 2 side].
        """
        axes = (self.rel_pos_h, self.rel_pos_w)
        vectors = [relative_positions(vectors, self.side, self.footprint) for vectors in axes]
        return (query @ torch.cat(vectors).T).gather(3, index.long())


class MergedBlock(nn.Module):
    """A block of SAM's encoder whose attention runs on the slots of a merge plan.

    Args:
        block: SAM's own block; its parameters are shared, and `original` returns it.
        windows: the block's attention windows.
        method: decides which tokens merge.
        merge_mlp: run the MLP on the slots too; ours. The sum of what attention and MLP compute for a slot is
            then added to each of its tokens, x + unmerge(attention + MLP), so tokens keep their differences.
        leader: index of an earlier block with the same windows whose plans this block reuses; None if the
            block's own method decides.
        form: form of attention; see `forms.py`.
    """

    normalizes_in_fp32 = True  # in this class, because the plan needs the result before it is rounded

    def __init__(
        self,
        block: Any,
        windows: Windows,
        method: Method,
        merge_mlp: bool = False,
        leader: int | None = None,
        form: Attention = Attention.WIDENED,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.method = method
        self.merge_mlp = merge_mlp
        self.norm1 = block.norm1
        self.attn = MergedAttention(block.attn, windows.side, method.footprint, method.proportional, form)
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self._original = (block,)  # in a tuple, so that its parameters are not registered twice
        self.leader = leader

    @property
    def original(self) -> nn.Module:
        """SAM's own block, unchanged."""
        block: nn.Module = self._original[0]
        return block

    @property
    def decides(self) -> bool:
        """Whether the block makes its own plans instead of reusing those of its leader."""
        return self.leader is None

    @property
    def attends_in_windows(self) -> bool:
        """Whether this is a window block; SAM marks global ones by a window size of 0."""
        return bool(self._original[0].window_size)

    def windows_of(self, prior: Tensor | None) -> Windows:
        """The block's windows with a prior [B, H, W] attached; see `forward_with_plans`."""
        if prior is None:
            return self.windows
        height, width, side = self.windows.height, self.windows.width, self.windows.side
        if number := self.method.prompt_windows:
            return SplitWindows(height, width, side, prior, number)
        return PromptedWindows(height, width, side, prior)

    def plans(self, features: Tensor, windows: Windows) -> list[MergePlan]:
        """The plan of the block's method for every group of windows.

        Args:
            features: [B, H, W, C] fp32, the output of norm1.
            windows: the result of `windows_of`.
        """
        return [self.method.plan(features, group) for group in windows.groups]

    def decide(self, x: Tensor, prior: Tensor | None = None) -> list[MergePlan]:
        """`plans` for the input of the block [B, H, W, C]; see `forward_with_plans`."""
        return self.plans(*self._attended(x.flatten(0, 2), x.shape, prior))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C], without prompts, as SAM's own loop over blocks calls it.

        Raises:
            RuntimeError: the block reuses the plans of another block, which that loop does not pass on.
        """
        if self.leader is not None:
            raise RuntimeError(
                f"this block reuses the plans of block {self.leader}: "
                "run the encoder with structsam_export.encoder.walk.embed"
            )
        return self.forward_with_plans(x)[0]

    def forward_with_plans(
        self, x: Tensor, prior: Tensor | None = None, plans: Sequence[MergePlan] | None = None
    ) -> tuple[Tensor, Sequence[MergePlan]]:
        """Run the block, and return its plans too.

        Args:
            x: [B, H, W, C].
            prior: [B, H, W] fp32 in [0, 1], 0 where there is no prompt; None without a prior.
            plans: the plan for every group of windows; None lets the block's method decide.

        Returns:
            [B, H, W, C], and the plan of every group of windows.
        """
        shape, x = x.shape, x.flatten(0, 2)  # rows, as Gemm and every gather need
        features, windows = self._attended(x, shape, prior)
        if plans is None:
            plans = self.plans(features, windows)
        x = x + self._change(x, features.flatten(0, 2).to(x.dtype), windows, plans)
        if not self.merge_mlp:
            x = x + self._mlp(x)
        return x.view(shape), plans

    def _attended(self, rows: Tensor, shape: torch.Size, prior: Tensor | None) -> tuple[Tensor, Windows]:
        """norm1 of rows [B * H * W, C], in fp32 with `shape` [B, H, W, C], and the block's windows."""
        features = layer_norm(self.norm1, rows).view(shape)  # fp32: the plan must not depend on fp16 rounding
        if prior is None and self.method.prompt_windows:
            prior = features.new_zeros(shape[:3])
        return features, self.windows_of(prior)

    def _change(self, x: Tensor, features: Tensor, windows: Windows, plans: Sequence[MergePlan]) -> Tensor:
        """The residual update of every token, computed on its slot.

        Args:
            x, features: [B * H * W, C], input and output of norm1.

        Returns:
            [B * H * W, C].
        """
        batch, device = x.shape[0] // (windows.height * windows.width), x.device
        source, stream = windows.source(features), windows.source(x)
        slots = []
        for group, plan in zip(windows.groups, plans, strict=True):
            rows = group.rows(batch, device)
            change = self.attn(plan.merge_rows(source, rows), plan.position, plan.size)  # [B', K, C]
            if self.merge_mlp:
                change = change + self._mlp(plan.merge_rows(stream, rows) + change)
            slots.append(change)
        return unmerge_groups(plans, slots, windows.token_of_row(batch, device))

    def _mlp(self, x: Tensor) -> Tensor:
        """norm2 and the MLP: [..., C] to [..., C]."""
        rows = x.view(-1, x.shape[-1])
        changed: Tensor = self.mlp(layer_norm(self.norm2, rows).to(x.dtype))
        return changed.view(x.shape)
