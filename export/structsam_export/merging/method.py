"""The interface of a merging method, and the identity method."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..choices import Channels, Reduction
from .plan import MergePlan
from .windows import Windows

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Site:
    """The block of an encoder in which a method merges.

    Attributes:
        block: index of the block, from 0.
        depth: number of blocks of the encoder.
        heads: attention heads of a block.
        seed: seed of the block's random choices.
    """

    block: int
    depth: int
    heads: int
    seed: int = 0


class Method(ABC):
    """Decides, for one block, which tokens merge.

    A subclass is a frozen dataclass whose arguments are `rate`, the share of tokens to remove, and the
    options that its entry in `registry.py` lists. It implements `plan` and `slots`; the other members have
    defaults that hold for most methods.
    """

    @property
    def conflict(self) -> str:
        """Why its options contradict each other; empty if they do not."""
        return ""

    @property
    def reduction(self) -> Reduction:
        """Content of a slot: the mean of its tokens, or one of them."""
        return Reduction.MEAN

    @property
    def proportional(self) -> bool:
        """Whether attention adds log(size) of a slot to its key's logits (ToMe's proportional attention)."""
        return False

    @property
    def footprint(self) -> int:
        """Side, in tokens, of the cell whose mean position a merged slot takes in the relative position.

        1 if a merged slot takes the position of one token, `MergePlan.position`.
        """
        return 1

    @property
    def fragile(self) -> bool:
        """Whether a rounding difference in one token's score can change how other tokens merge."""
        return False

    @property
    def ordered(self) -> bool:
        """Whether groups are consecutive tokens of one sorted order; one swap then changes all later groups.

        fp16 does not reproduce such a plan.
        """
        return False

    @property
    def takes_prior(self) -> bool:
        """Whether cells under a prompt merge last; then it has `prompt_windows` and `rate_prompt`."""
        return False

    @property
    def prompt_windows(self) -> int:
        """Number of windows of an image, those with the most prior, that merge at a separate rate."""
        return 0

    @property
    def has_kernels(self) -> bool:
        """Whether the plugins implement this configuration; see plugins/README.md."""
        return False

    @property
    def most(self) -> float:
        """Upper bound on the share of tokens that it can remove at any rate, in (0, 1]."""
        return 1.0

    @property
    def reading(self) -> str:
        """Legend of its `scores` in pictures, a few words."""
        return ""

    @abstractmethod
    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """The plan for every window.

        Args:
            x: [B, H, W, C] the tokens that enter attention (norm1's output), fp32.
            windows: the block's attention windows, or one of their groups.

        Returns:
            A plan over B' = B * windows.per_image windows of N = windows.tokens tokens.
        """

    @abstractmethod
    def slots(self, windows: Windows) -> int:
        """K, the number of slots that attention processes in one window."""

    def at(self, site: Site) -> Self:
        """The method configured for one block.

        Sets `seed` to the block's seed, and `heads` to the encoder's heads if `channels` is `heads`. A method
        that depends on depth extends this.
        """
        names = {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        changes: dict[str, Any] = {"seed": site.seed} if "seed" in names else {}
        if "heads" in names:
            judged: Any = self
            changes["heads"] = site.heads if judged.channels is Channels.HEADS else 1
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """Cost of the plan besides its matrix products, which a counter sees by itself.

        Args:
            windows: the block's attention windows.
            channels: C of a token.

        Returns:
            Multiply-accumulates for one image.
        """
        return 0

    def counts(self, windows: Windows) -> dict[str, int]:
        """Token counts of one window, for the manifest: before merging and after."""
        return {"tokens": windows.tokens, "tokens_kept": self.slots(windows)}

    def scores(self, x: Tensor, windows: Windows) -> Tensor | None:
        """The score of every token that decides what merges (paper, figure 7); `reading` is its legend.

        Args:
            x: [B, H, W, C] norm1's output.
            windows: the block's attention windows.

        Returns:
            [B, H, W]; None for methods that score pairs of tokens.
        """
        return None


@dataclass(frozen=True)
class Identity(Method):
    """Merges nothing."""

    reduction = Reduction.REPLACE

    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """The identity plan; see `Method.plan`."""
        return MergePlan.identity(x.shape[0] * windows.per_image, windows.tokens, x.device)

    def slots(self, windows: Windows) -> int:
        """One slot per token; see `Method.slots`."""
        return windows.tokens
