"""What a merging method is, and the one that merges nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..choices import Reduction
from .plan import MergePlan
from .windows import Windows


class Method(Protocol):
    """Decides, for one block, which tokens are merged."""

    @property
    def reduction(self) -> Reduction:
        """What a slot holds."""
        ...

    @property
    def fragile(self) -> bool:
        """Whether a last bit decides about more than the tokens whose scores it belongs to."""
        ...

    @property
    def prompt_windows(self) -> int:
        """How many windows of an image, those with the most prior, merge at a rate of their own."""
        ...

    @property
    def proportional(self) -> bool:
        """Whether attention counts a key as often as its slot has tokens (ToMe's proportional attention)."""
        ...

    @property
    def footprint(self) -> int:
        """Rows and columns of the cell at whose mean place a slot of several tokens stands.

        1 where it stands at its `position`.
        """
        ...

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """The plan for every window.

        Args:
            x: [B, H, W, C] the tokens that enter attention (norm1's output), fp32.
            windows: how the block cuts the map, or one of its groups of windows.

        Returns:
            A plan over B * windows.per_image windows of windows.tokens tokens.
        """
        ...

    def slots(self, windows: Windows) -> int:
        """K: slots that attention sees in one window."""
        ...


@dataclass(frozen=True)
class Identity:
    """Merges nothing."""

    reduction = Reduction.REPLACE
    fragile = False
    prompt_windows = 0
    proportional = False
    footprint = 1

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """The identity plan; see `Method.plan`."""
        return MergePlan.identity(x.shape[0] * windows.per_image, windows.tokens, x.device)

    def slots(self, windows: Windows) -> int:
        """Every token keeps a slot of its own."""
        return windows.tokens
