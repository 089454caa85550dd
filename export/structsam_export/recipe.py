"""Recipes: for each block a method, a rate, and whether the MLP runs on slots.

The flags of a command set one method for all blocks (`Uniform`), a file sets every block (`Recipe`). Both
give the recipe by which an encoder is patched; the manifest keeps it. Imports no PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structsam_runtime.errors import UserError
from structsam_runtime.files import read_json

from .merging.registry import DEFAULT, MethodSpec
from .models.architectures import Architecture

if TYPE_CHECKING:
    from .merging import Method

RATE = 0.55
RATE_PROMPT, RATE_BACKGROUND, PROMPT_WINDOWS = 0.35, 0.75, 2
"""Defaults of a prompt-aware encoder, which cost about the 283.0 GMAC of the paper's Table 1 on ViT-B."""


@dataclass(frozen=True)
class BlockRecipe:
    """The settings of one block.

    Attributes:
        method: the merging method with its options.
        rate: share of tokens removed from attention, 0 to 0.75 with cells of 2 x 2; 0 merges none.
        merge_mlp: run the MLP on slots too, if the block merges.
        rate_prompt: rate of the windows with the most prior, in window blocks of a prompt-aware encoder.
    """

    method: MethodSpec = field(default_factory=lambda: MethodSpec(DEFAULT))
    rate: float = RATE
    merge_mlp: bool = False
    rate_prompt: float | None = None

    @property
    def merges(self) -> bool:
        """Whether any rate is above 0."""
        return bool(self.rate or self.rate_prompt)

    def as_json(self) -> dict[str, Any]:
        """The entry of a recipe file; default values are left out, except method and rate."""
        values: dict[str, Any] = {"method": str(self.method), "rate": self.rate}
        values |= {"merge_mlp": True} if self.merge_mlp else {}
        return values | ({} if self.rate_prompt is None else {"rate_prompt": self.rate_prompt})


@dataclass(frozen=True)
class Evidence:
    """How well masks with a tuned recipe agree with those of the unmerged encoder, as measured by `tune`.

    Attributes:
        agreement: mean IoU over pictures, in [0, 1].
        low, high: its 95 % interval over pictures.
        pictures, prompts: how many it was measured on.
        gmac: multiply-accumulates of the encoder in 10^9.
        weights: which they were, see `named`.
        image_size: side of the encoder's input in pixels.
    """

    agreement: float
    low: float
    high: float
    pictures: int
    prompts: int
    gmac: float
    weights: str
    image_size: int

    def told(self, weights: str, image_size: int) -> str:
        """One line, for a model with these weights and this size."""
        if (weights, image_size) != (self.weights, self.image_size):
            return "the recipe was tuned with other weights or another --image-size; tune it for this model"
        return (
            f"tuned: agreement {self.agreement:.1%} ({self.low:.1%} to {self.high:.1%}) with the unmerged "
            f"masks of {self.pictures} pictures"
        )

    @staticmethod
    def named(weights: Mapping[str, str | None]) -> str:
        """A name of weights as the manifest has them: their hash, or their source if they have none."""
        return weights["sha256"] or weights["source"] or ""


@dataclass(frozen=True)
class Recipe:
    """The settings of every block of an encoder.

    Attributes:
        blocks: one entry per block.
        plan_every: number of blocks with the same windows and settings that share the plan of the first.
        prompt_windows: number of windows of an image, those with the most prior, that merge at
            `rate_prompt`; the encoder then takes a prior. 0 for an encoder without prior.
        name: name in the folder of the export.
        source: the file that it was read from, for the command that repeats the export.
        tuned: what `tune` measured of it; None if it is not by `tune`.
    """

    blocks: tuple[BlockRecipe, ...]
    plan_every: int = 1
    prompt_windows: int = 0
    name: str = "recipe"
    source: Path | None = field(default=None, compare=False)
    tuned: Evidence | None = field(default=None, compare=False)

    @property
    def prompt_aware(self) -> bool:
        """Whether the encoder takes a prior."""
        return self.prompt_windows > 0

    def methods(self, heads: int, seed: int = 0) -> list[Method]:
        """The method of every block.

        Args:
            heads: attention heads of a block.
            seed: seed of random choices; block i uses seed + i.
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
        """For each block the earlier block whose plans it reuses, or None if it decides itself.

        Args:
            kinds: the windows of each block; only blocks with equal windows share plans.
        """
        found: list[int | None] = []
        last: dict[Hashable, tuple[int, int]] = {}  # the leader, and the number of blocks it decided for
        for index, (block, kind) in enumerate(zip(self.blocks, kinds, strict=True)):
            alike = (kind, block)
            leader, decided = last.get(alike, (index, self.plan_every))
            if not block.merges or decided == self.plan_every:
                leader, decided = index, 0
            last[alike] = (leader, decided + 1)
            found.append(None if leader == index else leader)
        return found

    def as_json(self) -> dict[str, Any]:
        """The content of a recipe file; `from_json` reads it back."""
        return {
            "name": self.name,
            "plan_every": self.plan_every,
            "prompt_windows": self.prompt_windows,
            "blocks": [block.as_json() for block in self.blocks],
            **({} if self.tuned is None else {"tuned": dataclasses.asdict(self.tuned)}),
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Recipe:
        """Parse the content of a recipe file.

        Args:
            content: the JSON value.
            where: name of the file, for messages.

        Raises:
            UserError: a key is unknown, missing or has another type; or there is no such method.
        """
        known = {"blocks": list, "name": str, "plan_every": int, "prompt_windows": int, "tuned": dict}
        values = _read(content, known, where)
        if "tuned" in values:
            values["tuned"] = _evidence(values["tuned"], f"{where}, tuned")
        blocks = values.pop("blocks", None)
        if not blocks:
            raise UserError(f"{where} has no blocks; expected one entry for each block of the encoder")
        return cls(tuple(_block(one, f"{where}, block {i}") for i, one in enumerate(blocks)), **values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file, or the recipe in the manifest of an export.

        Raises:
            UserError: the file does not exist or is not JSON; or as in `from_json`.
        """
        content = read_json(path, "a recipe as JSON")
        if isinstance(content, dict) and "recipe" in content:  # a manifest
            content = content["recipe"]
        made = cls.from_json(content, str(path))
        return dataclasses.replace(made, source=path)

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name

    def parts(self) -> list[str]:
        """Parts of an export's name."""
        return [self.name]

    def words(self) -> list[str]:
        """The options of the command line that select it; none for a recipe without a file."""
        return [] if self.source is None else ["--recipe", str(self.source)]

    def of(self, architecture: Architecture) -> Recipe:
        """This recipe, if it has one entry for every block.

        Raises:
            UserError: the architecture has another number of blocks.
        """
        if len(self.blocks) != architecture.depth:
            raise UserError(
                f"the recipe {self.source or self.name} has {len(self.blocks)} blocks; "
                f"expected {architecture.depth}, as many as the architecture has"
            )
        return self


@dataclass(frozen=True)
class Uniform:
    """One method for all blocks, and a rate for each kind of block, as set by flags.

    Attributes:
        method: the merging method with its options.
        rate_window, rate_global: share of tokens removed in window and in global blocks. In a prompt-aware
            encoder `rate_window` applies to the windows with the most prior.
        rate_background: share of tokens removed in all other windows; None for an encoder without prior.
        prompt_windows: see `Recipe`.
        skip_blocks: indices of blocks that do not merge.
        merge_mlp: run the MLP on slots too, in blocks that merge.
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
        """From the flags of a command; None selects the default.

        Args:
            method: the merging method with its options.
            rate: rate of all blocks; of a prompt-aware encoder, of the windows with the most prior.
            rate_window, rate_global: rates of window and global blocks, in place of `rate` and, with
                `prompt_aware`, of `rate_background`.
            prompt_aware: whether the encoder takes a prior.
            prompt_windows, rate_background: options of a prompt-aware encoder.
            others: `skip_blocks`, `merge_mlp` and `plan_every`.

        Raises:
            UserError: options of a prompt-aware encoder without `prompt_aware`.
        """
        if prompt_aware:
            rate = RATE_PROMPT if rate is None else rate
            around = RATE_BACKGROUND if rate_background is None else rate_background
            number = PROMPT_WINDOWS if prompt_windows is None else prompt_windows
            others |= {"prompt_windows": number, "rate_background": around}
        else:
            given = {"--prompt-windows": prompt_windows, "--rate-background": rate_background}
            if alone := [name for name, value in given.items() if value is not None]:
                raise UserError(f"{' and '.join(alone)} without --prompt-aware has no effect; add it")
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
        """Share of tokens removed in windows without a prompt."""
        return self.rate_window if self.rate_background is None else self.rate_background

    def of(self, architecture: Architecture) -> Recipe:
        """The recipe for the blocks of an architecture.

        Raises:
            UserError: a skipped block does not exist.
        """
        depth = architecture.depth
        if any(not 0 <= block < depth for block in self.skip_blocks):
            raise UserError(
                f"--skip-blocks {','.join(map(str, self.skip_blocks))} names a block that does not exist; "
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
        """Name in tables: the method's label, and settings that differ from the default."""
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
        """The options of the command line that select it; default values are left out."""
        words = ["--prompt-aware"] if self.prompt_aware else []
        words += [] if self.method == MethodSpec(DEFAULT) else ["--method", str(self.method)]
        typed: dict[str, Any] = {}
        if self.prompt_aware:  # its default rates differ
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
        """The flags as JSON values; `from_json` reads them back."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return values | {"method": str(self.method), "skip_blocks": list(self.skip_blocks)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Uniform:
        """Read the flags of an export.

        Raises:
            UserError: there is no such method, or a value of an option is not valid.
        """
        method, blocks = MethodSpec.parse(values["method"]), tuple(values.get("skip_blocks", ()))
        return cls(**{**values, "method": method, "skip_blocks": blocks})


def _block(content: Any, where: str) -> BlockRecipe:
    known = {"method": str, "rate": float, "merge_mlp": bool, "rate_prompt": float}
    values = _read(content, known, where)
    if "rate" not in values:
        raise UserError(f"{where} has no rate; expected a share of tokens, 0 for a block that does not merge")
    return BlockRecipe(**{**values, "method": MethodSpec.parse(values.get("method", DEFAULT))})


def _evidence(content: Any, where: str) -> Evidence:
    kinds = {"str": str, "int": int, "float": float}
    known = {one.name: kinds[str(one.type)] for one in dataclasses.fields(Evidence)}
    values = _read(content, known, where)
    if missing := [name for name in known if name not in values]:
        raise UserError(f"{where} has no {', '.join(missing)}; run structsam tune again, or remove tuned")
    return Evidence(**values)


def _read(content: Any, known: Mapping[str, type], where: str) -> dict[str, Any]:
    """Check the keys and types of a JSON object; an integer is also accepted as a float."""
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
