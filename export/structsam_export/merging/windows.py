"""Attention windows of a feature map, as row indices instead of copies.

Features stay in one raster map; a window is a list of row indices into it. Partition, padding, unpartition
and cropping are then part of the gathers that merge and unmerge, and no feature is transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .index import count, lookup, take


@dataclass(frozen=True)
class Windows:
    """A `height x width` map cut into `side x side` windows, padded at the bottom and the right as SAM does.

    Global attention is one window that covers the map: `Windows(64, 64, 64)`.

    Args:
        height: rows of the feature map, in tokens.
        width: columns of the feature map, in tokens.
        side: rows and columns of a window, in tokens.
    """

    height: int
    width: int
    side: int
    group = ""  # name of a group of windows that merges at a separate rate

    @property
    def down(self) -> int:
        """Number of windows in a column."""
        return -(-self.height // self.side)

    @property
    def across(self) -> int:
        """Number of windows in a row."""
        return -(-self.width // self.side)

    @property
    def per_image(self) -> int:
        """Number of windows of one image."""
        return self.down * self.across

    @property
    def groups(self) -> Sequence[Windows]:
        """Groups of windows that merge at the same rate: here one group of all windows."""
        return [self]

    @property
    def levels(self) -> Tensor | None:
        """Priority of every token, [B', N]: tokens with higher levels merge later; None without a prior."""
        return None

    @property
    def tokens(self) -> int:
        """N, the number of tokens in a window, padding included."""
        return self.side * self.side

    @property
    def padded(self) -> bool:
        """Whether some windows contain padding tokens."""
        return self.down * self.side != self.height or self.across * self.side != self.width

    def cut(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Window partition of a channels-last map; padding is zero.

        Args:
            x: [B, H, W, C] or [B, H, W].
            tokens: [B * windows, ...] int32, the tokens of every window to return; by default all, in raster
                order.

        Returns:
            [B * windows, N, C] or [B * windows, N]; with `tokens`, its shape replaces [B * windows, N].
        """
        rows = self.rows(x.shape[0], x.device)
        return take(self.source(x.flatten(0, 2)), rows if tokens is None else lookup(rows, tokens))

    def joined(self, values: Tensor) -> Tensor:
        """Window unpartition of one number per token: [B * windows, N] to [B, H, W] without padding."""
        batch = values.shape[0] // self.per_image
        return take(values.flatten(), self.token_of_row(batch, values.device)).view(
            batch, self.height, self.width
        )

    def source(self, rows: Tensor) -> Tensor:
        """The rows that `rows()` indexes: the flattened map, after one row of zeros if there is padding.

        Args:
            rows: [B * H * W, ...] the flattened map.

        Returns:
            [B * H * W, ...] or [1 + B * H * W, ...].
        """
        if not self.padded:
            return rows
        return torch.cat([rows.new_zeros(1, *rows.shape[1:]), rows])

    def rows(self, batch: int, device: torch.device) -> Tensor:
        """The row in `source()` of every token of every window.

        Padding tokens point to row 0, the row of zeros; it comes first so that its index does not depend on
        the batch size.

        Returns:
            [batch * windows, N] int32.
        """
        shift = int(self.padded)
        raster = count(self.height * self.width, device) + shift
        grid = F.pad(
            raster.view(self.height, self.width),
            (0, self.across * self.side - self.width, 0, self.down * self.side - self.height),
        )
        rows = grid.view(self.down, self.side, self.across, self.side).transpose(1, 2)
        rows = rows.reshape(1, self.down * self.across, self.tokens)
        inside = (rows >= shift).to(torch.int32)  # padding stays at row 0 for every image of the batch
        image = count(batch, device).view(-1, 1, 1) * (self.height * self.width)
        return (rows + inside * image).flatten(0, 1)

    def padding(self, batch: int, device: torch.device) -> Tensor | None:
        """[batch * windows, N] fp32, 1 for padding tokens, else 0; None if no window has padding."""
        if not self.padded:
            return None
        return (self.rows(batch, device) == 0).float()

    def token_of_row(self, batch: int, device: torch.device) -> Tensor:
        """The index among all windows' tokens of every position of the map: the inverse of `rows`.

        Returns:
            [batch * H * W] int32, from 0 to batch * windows * N - 1.
        """
        tokens = count(self.per_image * self.tokens, device)
        grid = tokens.view(self.down, self.across, self.side, self.side).transpose(1, 2)
        grid = grid.reshape(self.down * self.side, self.across * self.side)[: self.height, : self.width]
        image = count(batch, device)[:, None] * (self.per_image * self.tokens)
        return (grid.reshape(1, -1) + image).flatten()
