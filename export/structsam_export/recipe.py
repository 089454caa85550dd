"""What merges where: for each block a method, a rate, and whether the MLP sees slots.

The flags of a command say it for all blocks alike (`Uniform`), a file says it block by block (`Recipe`). An
encoder is patched by the recipe that comes of either, and the manifest keeps it. Imports no PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structsam_runtime.errors import UserError

from .merging.registry import DEFAULT, MethodSpec
from .models.architectures import Architecture

if TYPE_CHECKING:
    from .merging import Method

RATE = 0.55
RATE_PROMPT, RATE_BACKGROUND, PROMPT_WINDOWS = 0.35, 0.75, 2
"""Of a prompt-aware encoder: Table 1's 283.0 GMAC on ViT-B."""


@dataclass(frozen=True)
class BlockRecipe:
    """What one block does.

    Attributes:
        method: how its tokens merge.
        rate: share of tokens that attention does not see, 0 to 0.75 with cells of 2 x 2; 0 merges nothing.
        merge_mlp: the MLP sees slots too, where anything merges.
        rate_prompt: the rate of windows with the most prior, in window blocks of a prompt-aware encoder.
    """

    method: MethodSpec = field(default_factory=lambda: MethodSpec(DEFAULT))
    rate: float = RATE
    merge_mlp: bool = False
    rate_prompt: float | None = None

    @property
    def merges(self) -> bool:
        """Whether any token merges."""
        return bool(self.rate or self.rate_prompt)

    def as_json(self) -> dict[str, Any]:
        """As a recipe file has it; what is not said is as by default."""
        values: dict[str, Any] = {"method": str(self.method), "rate": self.rate}
        values |= {"merge_mlp": True} if self.merge_mlp else {}
        return values | ({} if self.rate_prompt is None else {"rate_prompt": self.rate_prompt})


@dataclass(frozen=True)
class Recipe:
    """What every block of an encoder does.

    Attributes:
        blocks: one entry for each.
        plan_every: of so many blocks that cut the map alike and do the same, the first decides for all.
        prompt_windows: how many windows of an image, those with the most prior, `rate_prompt` is for; the
            encoder then takes a prior. 0 for an encoder that knows no prompts.
        name: of the export's folder.
        source: the file that it was read from, for the command that repeats the export.
    """

    blocks: tuple[BlockRecipe, ...]
    plan_every: int = 1
    prompt_windows: int = 0
    name: str = "recipe"
    source: Path | None = field(default=None, compare=False)

    @property
    def prompt_aware(self) -> bool:
        """Whether the encoder takes a prior."""
        return self.prompt_windows > 0

    def methods(self, heads: int, seed: int = 0) -> list[Method]:
        """How each block merges.

        Args:
            heads: attention heads of a block.
            seed: of random choices; block i draws with seed + i.
        """
        from .merging import Identity, Site

        made: list[Method] = []
        for index, block in enumerate(self.blocks):
            if not block.merges:
                made.append(Identity())
                continue
            prompted = {"prompt_windows": self.prompt_windows, "rate_prompt": block.rate_prompt}
            others = {} if block.rate_prompt is None else prompted
            site = Site(index, len(self.blocks), heads, seed + index)
            made.append(block.method.build(block.rate, **others).at(site))
        return made

    def leaders(self, kinds: Sequence[Hashable]) -> list[int | None]:
        """For each block the earlier one that decides for it, or None where it decides itself.

        Args:
            kinds: how each block cuts the map.
        """
        found: list[int | None] = []
        last: dict[Hashable, tuple[int, int]] = {}  # the leader, and for how many blocks it decided
        for index, (block, kind) in enumerate(zip(self.blocks, kinds, strict=True)):
            alike = (kind, block)
            leader, decided = last.get(alike, (index, self.plan_every))
            if not block.merges or decided == self.plan_every:
                leader, decided = index, 0
            last[alike] = (leader, decided + 1)
            found.append(None if leader == index else leader)
        return found

    def as_json(self) -> dict[str, Any]:
        """As a file has it; `from_json` reads it back."""
        return {
            "name": self.name,
            "plan_every": self.plan_every,
            "prompt_windows": self.prompt_windows,
            "blocks": [block.as_json() for block in self.blocks],
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Recipe:
        """The recipe of a file.

        Args:
            content: of the JSON.
            where: the file, for messages.

        Raises:
            UserError: a key is unknown, missing or of another type; there is no such method.
        """
        known = {"blocks": list, "name": str, "plan_every": int, "prompt_windows": int}
        values = _read(content, known, where)
        blocks = values.pop("blocks", None)
        if not blocks:
            raise UserError(f"{where} has no blocks; expected one entry for each block of the encoder")
        return cls(tuple(_block(one, f"{where}, block {i}") for i, one in enumerate(blocks)), **values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A recipe file, or the recipe of the manifest of an export.

        Raises:
            UserError: no such file, no JSON, or as `from_json`.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"no file {path}; expected a recipe as JSON") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON: {error}") from error
        if isinstance(content, dict) and "recipe" in content:  # a manifest
            content = content["recipe"]
        made = cls.from_json(content, str(path))
        return dataclasses.replace(made, source=path)

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name

    def parts(self) -> list[str]:
        """Parts of an export's name."""
        return [self.name]

    def words(self) -> list[str]:
        """What a person types for it; a recipe that was never in a file has no words."""
        return [] if self.source is None else ["--recipe", str(self.source)]

    def of(self, architecture: Architecture) -> Recipe:
        """Itself.

        Raises:
            UserError: it is for another number of blocks.
        """
        if len(self.blocks) != architecture.depth:
            raise UserError(
                f"the recipe {self.source or self.name} has {len(self.blocks)} blocks, "
                f"expected {architecture.depth}, which this architecture has"
            )
        return self


@dataclass(frozen=True)
class Uniform:
    """One method for all blocks, and a rate for each kind of block: what flags say.

    Attributes:
        method: how tokens merge.
        rate_window, rate_global: share of tokens removed in window and in global blocks. In a prompt-aware
            encoder `rate_window` is that of the windows with the most prior.
        rate_background: share of tokens removed in all other windows; None if the encoder knows no prompts.
        prompt_windows: see `Recipe`.
        skip_blocks: blocks that do not merge.
        merge_mlp: in blocks that merge, the MLP sees slots too.
        plan_every: see `Recipe`.
    """

    method: MethodSpec = field(default_factory=lambda: MethodSpec(DEFAULT))
    rate_window: float = RATE
    rate_global: float = RATE
    rate_background: float | None = None
    prompt_windows: int = 0
    skip_blocks: tuple[int, ...] = ()
    merge_mlp: bool = False
    plan_every: int = 1

    @classmethod
    def typed(
        cls,
        method: MethodSpec,
        rate: float | None = None,
        rate_window: float | None = None,
        rate_global: float | None = None,
        prompt_aware: bool = False,
        prompt_windows: int | None = None,
        rate_background: float | None = None,
        **others: Any,
    ) -> Uniform:
        """What flags come to, where None was not typed.

        Args:
            method: how tokens merge.
            rate: of all blocks; where the encoder knows prompts, of the windows with the most prior.
            rate_window, rate_global: instead of `rate` and of `rate_background`, by kind of block.
            prompt_aware: whether it knows prompts.
            prompt_windows, rate_background: of such an encoder.
            others: `skip_blocks`, `merge_mlp` and `plan_every`.

        Raises:
            UserError: options of prompt-aware merging without it.
        """
        if prompt_aware:
            rate = RATE_PROMPT if rate is None else rate
            around = RATE_BACKGROUND if rate_background is None else rate_background
            number = PROMPT_WINDOWS if prompt_windows is None else prompt_windows
            others |= {"prompt_windows": number, "rate_background": around}
        else:
            given = {"--prompt-windows": prompt_windows, "--rate-background": rate_background}
            if alone := [name for name, value in given.items() if value is not None]:
                raise UserError(f"{' and '.join(alone)} without --prompt-aware would do nothing; add it")
            rate = around = RATE if rate is None else rate
        return cls(
            method,
            rate if rate_window is None else rate_window,
            around if rate_global is None else rate_global,
            **others,
        )

    @property
    def prompt_aware(self) -> bool:
        """Whether the encoder takes a prior."""
        return self.rate_background is not None

    @property
    def rate_unprompted(self) -> float:
        """Share of tokens removed in windows that no prompt is in."""
        return self.rate_window if self.rate_background is None else self.rate_background

    def of(self, architecture: Architecture) -> Recipe:
        """The recipe for the blocks of an architecture.

        Raises:
            UserError: a skipped block is not there.
        """
        depth = architecture.depth
        if any(not 0 <= block < depth for block in self.skip_blocks):
            raise UserError(
                f"--skip-blocks {','.join(map(str, self.skip_blocks))} names a block that is not there; "
                f"expected numbers from 0 to {depth - 1}"
            )
        whole = BlockRecipe(self.method, self.rate_global, self.merge_mlp)
        prompted = self.rate_window if self.prompt_aware else None
        window = BlockRecipe(self.method, self.rate_unprompted, self.merge_mlp, prompted)
        unmerged = BlockRecipe(self.method, 0.0)
        blocks = [whole if index in architecture.global_blocks else window for index in range(depth)]
        blocks = [unmerged if index in self.skip_blocks else block for index, block in enumerate(blocks)]
        return Recipe(tuple(blocks), self.plan_every, self.prompt_windows)

    @property
    def label(self) -> str:
        """What tables call it: the method's label, and what is unlike in blocks."""
        parts = [self.method.label]
        if self.prompt_aware:
            parts.append(f"prompt-aware with {self.rate_window:g} in {self.prompt_windows} windows")
        if bool(self.rate_unprompted) != bool(self.rate_global):
            parts.append(f"only in {'window' if self.rate_unprompted else 'global'} blocks")
        elif self.rate_unprompted != self.rate_global:
            parts.append(f"{self.rate_unprompted:g} in window and {self.rate_global:g} in global blocks")
        if self.skip_blocks:
            parts.append(f"not in block {' '.join(map(str, self.skip_blocks))}")
        parts += ["MLP merged"] if self.merge_mlp else []
        parts += [f"one plan for {self.plan_every} blocks"] if self.plan_every > 1 else []
        return ", ".join(parts)

    def parts(self) -> list[str]:
        """Parts of an export's name."""
        window, whole = f"{self.rate_unprompted * 100:g}", f"{self.rate_global * 100:g}"
        prompt = [f"prompt{self.prompt_windows}r{self.rate_window * 100:g}"] if self.prompt_aware else []
        rate = f"r{window}" if window == whole else f"r{window}w{whole}g"
        shared = ["mlp"] if self.merge_mlp else []
        shared += [f"plan{self.plan_every}"] if self.plan_every > 1 else []
        skipped = [f"skip{block}" for block in self.skip_blocks]
        return [self.method.name, *prompt, rate, *shared, *self.method.differences(), *skipped]

    def words(self) -> list[str]:
        """What a person types for it: what is not so by itself."""
        words = ["--prompt-aware"] if self.prompt_aware else []
        words += [] if self.method == MethodSpec(DEFAULT) else ["--method", str(self.method)]
        typed: dict[str, Any] = {}
        if self.prompt_aware:  # whose rates are others by themselves
            names = ("rate_window", "rate_global", "prompt_windows", "rate_background")
            typed |= {name: getattr(self, name) for name in names}
        elif self.rate_window == self.rate_global:
            typed |= {"rate": self.rate_window} if self.rate_window != RATE else {}
        else:
            rates = {"rate_window": self.rate_window, "rate_global": self.rate_global}
            typed |= {name: rate for name, rate in rates.items() if rate != RATE}
        typed |= {"skip_blocks": ",".join(map(str, self.skip_blocks))} if self.skip_blocks else {}
        for name, value in typed.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--merge-mlp"] if self.merge_mlp else []
        return words + (["--plan-every", str(self.plan_every)] if self.plan_every > 1 else [])

    def as_json(self) -> dict[str, Any]:
        """The flags as JSON has them; `from_json` reads them back."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return values | {"method": str(self.method), "skip_blocks": list(self.skip_blocks)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Uniform:
        """The flags that an export was made with.

        Raises:
            UserError: there is no such method, or an option does not take the value.
        """
        method, blocks = MethodSpec.parse(values["method"]), tuple(values.get("skip_blocks", ()))
        return cls(**{**values, "method": method, "skip_blocks": blocks})


def _block(content: Any, where: str) -> BlockRecipe:
    known = {"method": str, "rate": float, "merge_mlp": bool, "rate_prompt": float}
    values = _read(content, known, where)
    if "rate" not in values:
        raise UserError(f"{where} has no rate; expected a share of tokens, 0 for a block that does not merge")
    return BlockRecipe(**{**values, "method": MethodSpec.parse(values.get("method", DEFAULT))})


def _read(content: Any, known: Mapping[str, type], where: str) -> dict[str, Any]:
    """The values of a JSON object whose keys are known, each of its type; a whole number is a number."""
    if not isinstance(content, dict):
        raise UserError(f"{where} is {type(content).__name__}, expected a JSON object")
    if unknown := [key for key in content if key not in known]:
        raise UserError(f"{where} has unknown keys {', '.join(unknown)}; expected {', '.join(known)}")
    values = {
        key: float(value) if known[key] is float and type(value) is int else value
        for key, value in content.items()
    }
    for key, value in values.items():
        if type(value) is not known[key]:
            raise UserError(f"{where} has {key} = {value!r}, expected {known[key].__name__}")
    return values
