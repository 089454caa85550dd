"""What settings cost in time: each kind of block is timed alone with each setting, and the rest once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..choices import Attention
from ..encoder.patch import grid_of, original, windows_of
from ..encoder.walk import WalkedEncoder, enter, leave
from ..recipe import BlockRecipe, Recipe
from .measuring import merged_block
from .notebook import Notebook, key
from .settings import MS, UNMERGED, Prices, everywhere, heads_of, patch

TURNS = 5
"""Measurements of each part. All parts take turns, so that a change of the machine's speed affects all."""


@dataclass(frozen=True)
class Part:
    """A part of an encoder that is timed on its own.

    Attributes:
        name: parts of one name take the same time.
        make: makes the module. It may patch the encoder, and is called when the module is needed.
        shape: of its input, float32.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Timed:
    """What whole encoders took on a runner.

    Attributes:
        runner: its name.
        machine: with the library and its version.
        unmerged, merged: nanoseconds for one image, without merging and with a recipe.
    """

    runner: str
    machine: str
    unmerged: int
    merged: int

    @property
    def speedup(self) -> float:
        """How many times as fast the encoder is with the recipe."""
        return self.unmerged / self.merged


class Rest(nn.Module):
    """An encoder without its blocks: patch embedding, position embedding and neck.

    Args:
        encoder: SAM's ImageEncoderViT.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """Normalised pixels [1, 3, S, S] to [1, E, H, W]."""
        return leave(self.encoder, enter(self.encoder, image))


@dataclass
class Latency:
    """Prices in nanoseconds, and the time of whole encoders.

    Attributes:
        time: seconds that one run of a part takes, measured anew by every call.
        form: of attention in the graphs.
        notebook: measurements of earlier runs, and where new ones go.
        machine: the machine, and the runner with its library, in words.
        model: tells the model, its weights and its size from others in the notebook.
        measured: called with a number of measurements that are done, and how many there are.
    """

    time: Callable[[Part], float]
    form: Attention
    notebook: Notebook
    machine: str
    model: str
    measured: Callable[[int, int], None] = lambda done, number: None

    def prices(self, encoder: Any, settings: Sequence[BlockRecipe]) -> Prices:
        """Time every kind of block without merging and with each setting, and the rest of the encoder.

        Blocks with the same windows and the same method take the same time, so each kind is timed once. The
        unmerged encoder is timed as a whole too, and all prices are scaled so that their sum is that time:
        what a block takes alone is, by about the same factor for all settings, not what it takes inside.

        Args:
            encoder: SAM's ImageEncoderViT; left patched.
            settings: S settings.
        """
        table = [
            [self.block(encoder, index, setting) for setting in (UNMERGED, *settings)]
            for index in range(len(encoder.blocks))
        ]
        rest = Part("rest", partial(Rest, encoder), _pixels(encoder))
        whole = self._whole(encoder, everywhere(UNMERGED, encoder))
        times = self.times([whole, rest, *(part for row in table for part in row)])
        found = np.array([[times[part.name] for part in row] for row in table])
        scale = times[whole.name] / (times[rest.name] + found[:, 0].sum())
        found = np.rint(scale * found).astype(np.int64)
        return Prices(round(scale * times[rest.name]), found[:, 0], found[:, 1:], MS)

    def whole(self, encoder: Any, recipes: Sequence[Recipe]) -> list[int]:
        """Nanoseconds that a whole encoder takes with each recipe, in turns with all others of them.

        Args:
            encoder: SAM's ImageEncoderViT; left patched.
            recipes: one entry for every block each.
        """
        parts = [self._whole(encoder, recipe) for recipe in recipes]
        times = self.times(parts, "; ".join(part.name for part in parts))
        return [times[part.name] for part in parts]

    def _whole(self, encoder: Any, recipe: Recipe) -> Part:
        """An encoder with a recipe."""

        def make() -> nn.Module:
            patch(encoder, recipe, form=self.form)
            return WalkedEncoder(encoder)

        return Part(f"whole {recipe.as_json()['blocks']}", make, _pixels(encoder))

    def block(self, encoder: Any, index: int, setting: BlockRecipe) -> Part:
        """A block with a setting; what differs between blocks in the seed alone has one name."""
        windows = windows_of(encoder)[index]
        method = everywhere(setting, encoder).methods(heads_of(encoder), -index)[index]  # its seed is 0
        grid, width = grid_of(encoder), original(encoder.blocks[index]).norm1.weight.shape[0]
        return Part(
            f"block {windows} {method} {setting.merge_mlp}",
            partial(merged_block, encoder, index, setting, form=self.form),
            (1, grid, grid, width),
        )

    def times(self, parts: Sequence[Part], among: str = "") -> dict[str, int]:
        """Nanoseconds of a run by name, the median over `TURNS`; the first part of a name is measured.

        Args:
            parts: take turns.
            among: which parts those are, if they are to be compared with each other alone.
        """
        named: dict[str, Part] = {}
        for part in parts:
            named.setdefault(part.name, part)
        turns = list(product(range(TURNS), named))
        for done, (turn, name) in enumerate(turns):
            self.notebook.get(self._key(turn, name, among), partial(self.time, named[name]))
            self.measured(done + 1, len(turns))
        return {name: self._median(name, among) for name in named}

    def _median(self, name: str, among: str) -> int:
        seconds: list[float] = [self.notebook[self._key(turn, name, among)] for turn in range(TURNS)]
        return round(1e9 * statistics.median(seconds))

    def _key(self, turn: int, name: str, among: str) -> str:
        return key("time", self.machine, self.model, name, turn, among)


def _pixels(encoder: Any) -> tuple[int, ...]:
    """Shape of an encoder's input."""
    return 1, 3, encoder.img_size, encoder.img_size
