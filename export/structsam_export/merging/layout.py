"""Matching onto destinations that do not depend on the image."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..choices import Reduction
from .index import constant
from .matching import Matching, match
from .metric import head_mean
from .plan import MergePlan
from .windows import Windows


class FixedLayout(Matching):
    """A method whose destinations are chosen at export: 1 / s^2 of the tokens, the same in every window.

    Attributes:
        cell: s, rows and columns of a cell.
        reduction: content of a slot.
        heads: similarity is computed on the mean over this many heads.
    """

    cell: int
    reduction: Reduction
    heads: int

    @abstractmethod
    def destinations(self, windows: Windows) -> list[int]:
        """Indices of the tokens of a window that others merge into; N / s^2 of them."""

    def sources(self, windows: Windows) -> int:
        """All tokens except the destinations; see `Matching.sources`."""
        return windows.tokens - windows.tokens // self.cell**2

    def matched(self, x: Tensor, windows: Windows) -> MergePlan:
        """Matching onto the layout; see `Matching.matched`."""
        number, destinations = x.shape[0] * windows.per_image, self.destinations(windows)
        sources = np.setdiff1d(np.arange(windows.tokens), destinations)
        source, destination = (
            constant(np.array(tokens), x.device).expand(number, -1) for tokens in (sources, destinations)
        )
        metric = windows.cut(head_mean(x, self.heads))
        padding = windows.padding(x.shape[0], x.device)
        return match(metric, source, destination, self.removed(windows), self.reduction, padding=padding)


def cells_of(windows: Windows, cell: int) -> NDArray[np.int64]:
    """`cells.cell_tokens` in NumPy, so that the values are known while a model is traced: [cells, s * s]."""
    side = windows.side // cell
    grid = np.arange(windows.tokens).reshape(side, cell, side, cell)
    return grid.transpose(0, 2, 1, 3).reshape(-1, cell * cell)
