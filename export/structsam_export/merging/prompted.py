"""Attention windows with a prior of where prompts are (paper section 3.3, prompt-aware variant)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .cells import largest_first, lexicographic
from .index import count, inverse, take
from .windows import Windows

PROMPT, BACKGROUND = "prompt", "background"
"""Names of the groups of windows."""
LEVELS = 128
"""The prior is quantised to steps of 1/128: sums and orders of whole numbers are exact in every runtime."""


@dataclass(frozen=True)
class PromptedWindows(Windows):
    """Windows with a prior; cells under the prior merge last.

    Args:
        prior: [B, H, W] fp32 in [0, 1]; 0 where there is no prompt.
    """

    prior: Tensor

    @property
    def levels(self) -> Tensor:
        """[B', N] fp32 whole numbers from 0 to LEVELS; 0 for padding. See `Windows.levels`."""
        # Rounded up, so that a prompt smaller than a token still counts.
        return self.cut((self.prior * LEVELS).ceil())


@dataclass(frozen=True)
class SplitWindows(PromptedWindows):
    """Windows in two groups: the `number` windows of an image with the most prior, and all others.

    The members of a group depend on the image, their number does not, so each group is a batch of fixed size.
    Of windows with equal priors the first ones are chosen.

    Args:
        number: windows of one image in the first group, at least 1 and fewer than all.
    """

    number: int

    @cached_property  # one selection for all uses
    def groups(self) -> Sequence[WindowGroup]:
        """The group with the most prior, then the other windows; see `Windows.groups`."""
        order = self._order()
        parts = {PROMPT: order[:, : self.number], BACKGROUND: order[:, self.number :]}
        return [
            WindowGroup(self.height, self.width, self.side, self.prior, chosen, group)
            for group, chosen in parts.items()
        ]

    def token_of_row(self, batch: int, device: torch.device) -> Tensor:
        """`Windows.token_of_row` where tokens are numbered through the first group, then the second."""
        numbers = torch.cat([group.numbers(batch, device) for group in self.groups])
        place = inverse(numbers[None])[0]  # of every window
        token = super().token_of_row(batch, device)
        return take(place, token // self.tokens) * self.tokens + token % self.tokens

    def _order(self) -> Tensor:
        """[B, windows] int32, the windows of every image in descending order of their total prior.

        The sum of 196 levels times 361 windows (4096 pixels) is below 2^24, so it is exact in fp32.
        """
        total = self.levels.sum(-1).view(-1, self.per_image)
        return largest_first(lexicographic(total, place=count(self.per_image, total.device)))


@dataclass(frozen=True)
class WindowGroup(PromptedWindows):
    """A subset of n windows of every image.

    Args:
        chosen: [B, n] int32, indices of each image's windows.
        group: name of the group.
    """

    chosen: Tensor
    group: str = ""

    @property
    def per_image(self) -> int:
        """n, the number of windows of one image in the group."""
        return self.chosen.shape[1]

    def numbers(self, batch: int, device: torch.device) -> Tensor:
        """[batch * n] int32, indices of the group's windows among all windows of the batch."""
        image = count(batch, device)[:, None] * (self.down * self.across)
        return (self.chosen + image).flatten()

    def rows(self, batch: int, device: torch.device) -> Tensor:
        """Rows of the group's windows; see `Windows.rows`."""
        return take(super().rows(batch, device), self.numbers(batch, device))
