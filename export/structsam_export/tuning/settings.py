"""The settings that a block may get, and what each costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.macs import EncoderMacs, encoder_macs
from ..choices import Attention
from ..encoder.patch import apply, original, windows_of
from ..merging.registry import MethodSpec
from ..recipe import BlockRecipe, Recipe

UNMERGED = BlockRecipe(rate=0.0)
FORM = Attention.OPERATOR
"""The form of attention: all give the same up to rounding, and this one is the fastest in PyTorch."""
METHOD = MethodSpec("adjacent")
RATES = (0.25, 0.4, 0.55, 0.75)


def settings_of(method: MethodSpec, rates: Sequence[float] = RATES) -> tuple[BlockRecipe, ...]:
    """A method at several rates, each with the MLP on tokens and on slots."""
    return tuple(BlockRecipe(method, rate, mlp) for mlp, rate in product((False, True), rates))


SETTINGS = settings_of(METHOD)
"""What every block is measured with. Other methods were never chosen beside it (docs/guide/tune.md)."""


@dataclass(frozen=True)
class Unit:
    """What prices count.

    Attributes:
        name: of one.
        size: how much of a price that is.
        what: is counted, in words.
        axis: the label of an axis.
    """

    name: str
    size: float
    what: str
    axis: str

    def told(self, price: float) -> str:
        """A price as text."""
        return f"{price / self.size:.2f} {self.name}"


GMAC = Unit("GMAC", 1e9, "multiply-accumulates", "GMAC")
MS = Unit("ms", 1e6, "predicted latency", "predicted ms")
"""Of prices in nanoseconds."""


@dataclass(frozen=True)
class Prices:
    """What an encoder costs for one image, by block and setting.

    Attributes:
        stem: of patch embedding and neck.
        unmerged: int64 [N], of every block without merging.
        merged: int64 [N, S], of every block with each setting.
        unit: `GMAC` for multiply-accumulates, `MS` for nanoseconds.
    """

    stem: int
    unmerged: NDArray[np.int64]
    merged: NDArray[np.int64]
    unit: Unit = GMAC

    @property
    def whole(self) -> int:
        """The cost of the unmerged encoder."""
        return int(self.stem + self.unmerged.sum())

    def of(self, columns: Sequence[int] | NDArray[np.int16]) -> int:
        """The cost of a recipe.

        Args:
            columns: [N], of every block 0 for no merging, or 1 for the first setting and so on.
        """
        table = np.concatenate([self.unmerged[:, None], self.merged], 1)
        return int(self.stem + table[np.arange(len(table)), columns].sum())

    def first(self, number: int) -> Prices:
        """The prices of the first so many settings."""
        return replace(self, merged=self.merged[:, :number])


Pricing = Callable[[Any, Sequence[BlockRecipe]], Prices]
"""From an encoder and settings to their prices."""


def patch(encoder: Any, recipe: Recipe, seed: int = 0, form: Attention = FORM) -> None:
    """Let an encoder merge by a recipe, as an export does.

    Args:
        encoder: SAM's ImageEncoderViT, patched or not.
        recipe: one entry for every block.
        seed: of random choices, see `Recipe.methods`.
        form: of attention.
    """
    methods = recipe.methods(heads_of(encoder), seed)
    leaders = recipe.leaders(windows_of(encoder))
    apply(encoder, methods, [block.merge_mlp for block in recipe.blocks], leaders, form)
    encoder.to(encoder.patch_embed.proj.weight.device)  # the blocks bring buffers of their own


def heads_of(encoder: Any) -> int:
    """Attention heads of a block."""
    return int(original(encoder.blocks[0]).attn.num_heads)


def everywhere(setting: BlockRecipe, encoder: Any, name: str = "recipe") -> Recipe:
    """The recipe that gives every block of an encoder the same setting."""
    return Recipe((setting,) * len(encoder.blocks), name=name)


def _blocks(macs: EncoderMacs) -> NDArray[np.int64]:
    """Multiply-accumulates of every block, int64 [N]."""
    return np.array([block.norm + block.attention + block.mlp + block.planning for block in macs.blocks])


def prices(encoder: Any, settings: Sequence[BlockRecipe]) -> Prices:
    """Count an encoder with every setting.

    A block's cost does not depend on the other blocks, so one count for each setting gives those of all
    recipes; nothing is computed.

    Args:
        encoder: SAM's ImageEncoderViT; left patched.
        settings: S settings.
    """
    counted = []
    for setting in (UNMERGED, *settings):
        patch(encoder, everywhere(setting, encoder))
        counted.append(encoder_macs(encoder))
    first, *others = counted
    return Prices(first.stem, _blocks(first), np.array(list(map(_blocks, others))).T)
