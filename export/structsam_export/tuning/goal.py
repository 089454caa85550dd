"""What a recipe is wanted for: masks that agree so well, or a cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from structsam_runtime.errors import UserError


class Kind(Enum):
    """What is given, by its option."""

    BUDGET = "--budget"
    SPEEDUP = "--speedup"
    MACS = "--macs"


@dataclass(frozen=True)
class Goal:
    """What is given; the other one of agreement and cost is made as good as possible.

    Attributes:
        kind: what `value` is.
        value: of a budget, the least agreement with the unmerged masks, in (0, 1), which the lower end of the
            interval reaches; of a speedup, what the unmerged encoder costs over what the recipe does, above
            1; else multiply-accumulates in 10^9, above 0.

    Raises:
        UserError: the value is out of range.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        within = {
            Kind.BUDGET: (0 < self.value < 1, "an agreement between 0 and 1, such as 0.97"),
            Kind.SPEEDUP: (1 < self.value < float("inf"), "a number above 1, such as 2"),
            Kind.MACS: (0 < self.value < float("inf"), "multiply-accumulates in 10^9, such as 200"),
        }
        sound, expected = within[self.kind]
        if not sound:  # NaN neither
            raise UserError(f"{self.kind.value} is {self.value:g}; expected {expected}")

    @property
    def name(self) -> str:
        """Name of the recipe."""
        told = {Kind.BUDGET: f"{100 * self.value:g}", Kind.SPEEDUP: f"{self.value:g}x"}
        return "tuned" + told.get(self.kind, f"{self.value:g}gmac")

    def limit(self, unmerged: int) -> float:
        """The most that a recipe may cost, in multiply-accumulates or nanoseconds; infinite for a budget.

        Args:
            unmerged: what the unmerged encoder costs.
        """
        limits = {Kind.SPEEDUP: unmerged / self.value, Kind.MACS: self.value * 1e9}
        return limits.get(self.kind, float("inf"))
