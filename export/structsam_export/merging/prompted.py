"""Windows of a map on which prompts lie (paper section 3.3, prompt-aware merging)."""

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
"""Groups of windows."""
LEVELS = 128
"""A prior counts in steps of 1/128: whole numbers, whose sums and orders are exact in every runtime."""


@dataclass(frozen=True)
class PromptedWindows(Windows):
    """Windows that know where prompts lie, so that cells there merge last.

    Args:
        prior: [B, H, W] fp32, from 0, no prompt, to 1.
    """

    prior: Tensor

    @property
    def levels(self) -> Tensor:
        """[B', N] fp32 whole numbers, 0 to LEVELS; padding has 0. See `Windows.levels`."""
        # Rounded up, so that a prompt smaller than a token does not vanish.
        return self.cut((self.prior * LEVELS).ceil())


@dataclass(frozen=True)
class SplitWindows(PromptedWindows):
    """Windows in two groups: those with the most prior, and all others.

    Which windows those are depends on the image, how many does not, so that each group is a batch of fixed
    size. Of windows with equal priors the first counts as having more.

    Args:
        number: windows of one image in the first group, at least 1 and not all.
    """

    number: int

    @cached_property  # chosen once, by whoever asks first
    def groups(self) -> Sequence[WindowGroup]:
        """The windows with the most prior, then the others; see `Windows.groups`."""
        order = self._order()
        parts = {PROMPT: order[:, : self.number], BACKGROUND: order[:, self.number :]}
        return [
            WindowGroup(self.height, self.width, self.side, self.prior, chosen, group)
            for group, chosen in parts.items()
        ]

    def token_of_row(self, batch: int, device: torch.device) -> Tensor:
        """The same, in tokens that are counted through the first group, then through the second."""
        numbers = torch.cat([group.numbers(batch, device) for group in self.groups])
        place = inverse(numbers[None])[0]  # of every window
        token = super().token_of_row(batch, device)
        return take(place, token // self.tokens) * self.tokens + token % self.tokens

    def _order(self) -> Tensor:
        """[B, windows] int32, the windows of every image from the most prior to the least.

        Sums of 196 levels, times 361 windows at 4096 pixels, are below 2^24.
        """
        total = self.levels.sum(-1).view(-1, self.per_image)
        return largest_first(lexicographic(total, place=count(self.per_image, total.device)))


@dataclass(frozen=True)
class WindowGroup(PromptedWindows):
    """Some windows of every image.

    Args:
        chosen: [B, n] int32, which of each image's windows.
        group: their name.
    """

    chosen: Tensor
    group: str = ""

    @property
    def per_image(self) -> int:
        """Windows of one image in the group."""
        return self.chosen.shape[1]

    def numbers(self, batch: int, device: torch.device) -> Tensor:
        """[batch * n] int32, the group's windows among all windows of the batch."""
        image = count(batch, device)[:, None] * (self.down * self.across)
        return (self.chosen + image).flatten()

    def rows(self, batch: int, device: torch.device) -> Tensor:
        """Of the group's windows; see `Windows.rows`."""
        return take(super().rows(batch, device), self.numbers(batch, device))
