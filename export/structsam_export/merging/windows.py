"""How a feature map is cut into attention windows, as row numbers instead of copies.

Features stay in one raster map; a window is only a list of its rows. Partition, padding, un-windowing and
un-padding are then the same gather that merges and unmerges, and no feature is transposed.
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
    group = ""  # the name of windows that merge unlike others of their map

    @property
    def down(self) -> int:
        """Windows in a column."""
        return -(-self.height // self.side)

    @property
    def across(self) -> int:
        """Windows in a row."""
        return -(-self.width // self.side)

    @property
    def per_image(self) -> int:
        """Windows that one image is cut into."""
        return self.down * self.across

    @property
    def groups(self) -> Sequence[Windows]:
        """Windows that merge alike: here all of them."""
        return [self]

    @property
    def levels(self) -> Tensor | None:
        """How late every token of every window is to merge; None where that is the same for all."""
        return None

    @property
    def tokens(self) -> int:
        """Tokens in a window, padding counted: the paper's N."""
        return self.side * self.side

    @property
    def padded(self) -> bool:
        """Whether some windows hold padding tokens."""
        return self.down * self.side != self.height or self.across * self.side != self.width

    def cut(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Window partition of a map with its channels last, zeros where there is padding.

        Args:
            x: [B, H, W, C] or [B, H, W].
            tokens: [B * windows, ...] int32, which of its tokens every window gives, all in raster order if
                not given. Where they do not depend on the image it is one gather all the same.

        Returns:
            [B * windows, N, C] or [B * windows, N]; as `tokens` is shaped in place of N.
        """
        rows = self.rows(x.shape[0], x.device)
        return take(self.source(x.flatten(0, 2)), rows if tokens is None else lookup(rows, tokens))

    def joined(self, values: Tensor) -> Tensor:
        """[B * windows, N] of one number a token back to [B, H, W]; the padding's are dropped."""
        batch = values.shape[0] // self.per_image
        return take(values.flatten(), self.token_of_row(batch, values.device)).view(
            batch, self.height, self.width
        )

    def source(self, rows: Tensor) -> Tensor:
        """The rows that `rows()` points into: the map's own, behind one row of zeros if there is padding.

        Args:
            rows: [B * H * W, ...] the map, flattened.
        """
        if not self.padded:
            return rows
        return torch.cat([rows.new_zeros(1, *rows.shape[1:]), rows])

    def rows(self, batch: int, device: torch.device) -> Tensor:
        """For every token of every window, its row in `source()`.

        Padding tokens point to row 0, the row of zeros, which stands first so that its number does not
        depend on the batch.

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
        """1 where a token is padding, else 0: [batch * windows, N] fp32; None where nothing is padded."""
        if not self.padded:
            return None
        return (self.rows(batch, device) == 0).float()

    def token_of_row(self, batch: int, device: torch.device) -> Tensor:
        """For every position of the map, its place among all windows' tokens: the way back.

        Returns:
            [batch * H * W] int32, numbers below batch * windows * N.
        """
        tokens = count(self.per_image * self.tokens, device)
        grid = tokens.view(self.down, self.across, self.side, self.side).transpose(1, 2)
        grid = grid.reshape(self.down * self.side, self.across * self.side)[: self.height, : self.width]
        image = count(batch, device)[:, None] * (self.per_image * self.tokens)
        return (grid.reshape(1, -1) + image).flatten()
