"""What a merging method is, and the one that merges nothing."""

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
    """Where in an encoder a method merges.

    Attributes:
        block: number of the block, from 0.
        depth: blocks of the encoder.
        heads: attention heads of a block.
        seed: of the block's random choices.
    """

    block: int
    depth: int
    heads: int
    seed: int = 0


class Method(ABC):
    """Decides, for one block, which tokens merge.

    A subclass is a frozen dataclass whose arguments are `rate`, the share of tokens to remove, and the
    options that its entry in `registry.py` lists. It has `plan` and `slots`; everything else has an answer
    here that holds for most methods.
    """

    @property
    def conflict(self) -> str:
        """Why its options do not go together; empty if they do."""
        return ""

    @property
    def reduction(self) -> Reduction:
        """What a slot holds."""
        return Reduction.MEAN

    @property
    def proportional(self) -> bool:
        """Whether attention counts a key as often as its slot has tokens (ToMe's proportional attention)."""
        return False

    @property
    def footprint(self) -> int:
        """Rows and columns of the cell at whose mean place a slot of several tokens stands.

        1 where it stands at its `position`.
        """
        return 1

    @property
    def fragile(self) -> bool:
        """Whether a last bit decides about more than the tokens whose scores it belongs to."""
        return False

    @property
    def ordered(self) -> bool:
        """Whether groups are cut from one order of all tokens: a swap of two then renames all later groups.

        fp16 does not keep such a plan.
        """
        return False

    @property
    def takes_prior(self) -> bool:
        """Whether it merges late where prompts lie; then it has `prompt_windows` and `rate_prompt`."""
        return False

    @property
    def prompt_windows(self) -> int:
        """How many windows of an image, those with the most prior, merge at a rate of their own."""
        return 0

    @property
    def has_kernels(self) -> bool:
        """Whether the plugins compute it as it is; see plugins/README.md."""
        return False

    @property
    def most(self) -> float:
        """The largest share of tokens that it can remove, whatever the rate."""
        return 1.0

    @property
    def reading(self) -> str:
        """How to read its `scores`, in a few words."""
        return ""

    @abstractmethod
    def plan(self, x: Tensor, windows: Windows) -> MergePlan:
        """The plan for every window.

        Args:
            x: [B, H, W, C] the tokens that enter attention (norm1's output), fp32.
            windows: how the block cuts the map, or one of its groups of windows.

        Returns:
            A plan over B * windows.per_image windows of windows.tokens tokens.
        """

    @abstractmethod
    def slots(self, windows: Windows) -> int:
        """K: slots that attention sees in one window."""

    def at(self, site: Site) -> Self:
        """The method as it merges in one block.

        `seed` becomes the block's; `heads`, over which `channels` takes its mean, becomes the encoder's.
        A method that depends on depth adds that here.
        """
        names = {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        changes: dict[str, Any] = {"seed": site.seed} if "seed" in names else {}
        if "heads" in names:
            judged: Any = self
            changes["heads"] = site.heads if judged.channels is Channels.HEADS else 1
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def energy_macs(self, windows: Windows, channels: int) -> int:
        """What the decision costs beyond the matrix products that a counter sees.

        Args:
            windows: how the block cuts the map.
            channels: C of a token.

        Returns:
            Multiply-accumulates for one image.
        """
        return 0

    def counts(self, windows: Windows) -> dict[str, int]:
        """What becomes of the tokens of one window, for the manifest."""
        return {"tokens": windows.tokens, "tokens_kept": self.slots(windows)}

    def scores(self, x: Tensor, windows: Windows) -> Tensor | None:
        """The number of every token that it decides by (paper, figure 7); `reading` tells how to read it.

        Args:
            x: [B, H, W, C] norm1's output.
            windows: how the block cuts the map.

        Returns:
            [B, H, W]; None for methods that decide by pairs.
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
        """Every token keeps a slot of its own."""
        return windows.tokens
