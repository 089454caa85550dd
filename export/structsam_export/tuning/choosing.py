"""Which setting each block gets: all recipes that no other recipe beats in both cost and error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frontier:
    """Recipes by rising cost and falling error; none is beaten in both by any other recipe.

    Attributes:
        costs: int64 [F], ascending.
        errors: float64 [F], descending; sums over blocks.
        choices: int16 [F, N], the column of the table that every block takes.
    """

    costs: NDArray[np.int64]
    errors: NDArray[np.float64]
    choices: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.costs)


def frontier(costs: NDArray[np.int64], errors: NDArray[np.float64]) -> Frontier:
    """All recipes worth having, if errors of blocks add up.

    Exact: block by block, partial recipes are extended by every setting, and those that another one beats in
    cost and error are dropped. No extension of a dropped one can beat the same extension of the one that beat
    it. Their number stays small, because blocks of one kind cost the same.

    Args:
        costs: int64 [N, S], of every block with each setting.
        errors: float64 [N, S], the same for its error; finite.

    Raises:
        ValueError: the tables differ in shape, are empty, or hold NaN or infinity.
    """
    if costs.shape != errors.shape or costs.ndim != 2 or not costs.size:
        raise ValueError(
            f"costs {list(costs.shape)} and errors {list(errors.shape)}, expected the same [N, S]"
        )
    if not np.isfinite(errors).all():
        raise ValueError("some errors are not finite")
    total, wrong = np.zeros(1, np.int64), np.zeros(1)
    choices = np.zeros((1, 0), np.int16)
    for cost, error in zip(costs, errors, strict=True):
        every_total, every_wrong = (total[:, None] + cost).ravel(), (wrong[:, None] + error).ravel()
        kept = _unbeaten(every_total, every_wrong)
        before, column = np.divmod(kept, len(cost))
        total, wrong = every_total[kept], every_wrong[kept]
        choices = np.concatenate([choices[before], column[:, None].astype(np.int16)], 1)
    return Frontier(total, wrong, choices)


def _unbeaten(costs: NDArray[np.int64], errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points [F] that no other point beats, by rising cost; of equal ones the first."""
    order = np.lexsort((errors, costs))
    lowest = np.minimum.accumulate(errors[order])
    better = np.concatenate([[True], lowest[1:] < lowest[:-1]])
    kept: NDArray[np.int64] = order[better]
    return kept
