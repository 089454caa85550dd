"""The configuration of an export."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structsam_runtime.errors import UserError

from .choices import AUTO, Attention, DecoderLayout, Engine, Linear, Precision, Target
from .merging.registry import METHODS, MethodSpec
from .models.architectures import ARCHITECTURES, Architecture
from .models.family import FAMILIES
from .recipe import RATE, Recipe, Uniform
from .targets import BFLOAT16, DIALECTS, FUSED, Dialect, dialect, natural, supports

if TYPE_CHECKING:
    from .merging import Method

PATHS = ("checkpoint", "plugins", "calibrate")
"""Arguments that are paths of files."""
FLAGS = tuple(one.name for one in dataclasses.fields(Uniform))
"""Arguments that define the merging of exports without a recipe file."""
CELL = 2
"""Rows and columns of a cell; the limit of its rate also holds for methods without cells."""


@dataclass(frozen=True)
class ExportConfig:
    """All settings that determine the content of an export.

    Attributes:
        arch: a name in ARCHITECTURES.
        checkpoint: file of the weights, or folder of `save_pretrained`; None selects the architecture's
            default weights.
        random_weights: seeded random weights instead of trained ones.
        family: a name in FAMILIES, the kind of model that the weights were trained as; empty selects that of
            the architecture.
        merging: what merges in which block, from flags or from a recipe file.
        seed: seed of random weights and of random choices; block i uses seed + i.
        image_size: S, side of the encoder's input in pixels, 64 to 4096; 0 selects the size that the
            architecture was trained at.
        precision: the arithmetic inside the graphs.
        calibrate: folder of pictures that 8 bits are calibrated on; None for some of those to verify on.
        int8_skip: linear layers that stay in floating point; see `calibration.left_out`.
        dynamic_batch: give the encoder a dynamic batch dimension; otherwise the batch is 1.
        decoder_layout: also write a decoder in this layout, for other tools.
        target: the runtime of the graph; None selects that of the engine, or the CPU without an engine.
        attention: the form of attention in the graph; None selects that of the target.
        engine: also build engines with this library.
        plugins: the library of plugins for the encoder's engine; None for none.
        plugin_graph: also write the encoder's graph with plugins, which comes with `plugins` anyway.

    Raises:
        UserError: a value is out of range, or two values contradict each other.
    """

    arch: str
    checkpoint: Path | None = None
    random_weights: bool = False
    family: str = ""
    merging: Uniform | Recipe = field(default_factory=Uniform)
    seed: int = 0
    image_size: int = 0
    precision: Precision = Precision.FP32
    calibrate: Path | None = None
    int8_skip: tuple[str, ...] = ()
    dynamic_batch: bool = False
    decoder_layout: DecoderLayout | None = None
    target: Target | None = None
    attention: Attention | None = None
    engine: Engine | None = None
    plugins: Path | None = None
    plugin_graph: bool = False

    @classmethod
    def of(
        cls, arch: str, method: str = "structsam", rate: float | None = None, **values: Any
    ) -> ExportConfig:
        """A config from flat keyword arguments.

        Args:
            arch: a name in ARCHITECTURES.
            method: a method with its options, such as `adjacent:reduction=replace`.
            rate: rate of all blocks; `rate_window` and `rate_global` set it by kind of block.
            values: fields of `Uniform` and of this class.

        Raises:
            UserError: a value is out of range, or two values contradict each other.
        """
        flags = {name: values.pop(name) for name in FLAGS if name in values}
        if rate is not None:
            flags = {"rate_window": rate, "rate_global": rate} | flags
        return cls(arch, merging=Uniform(MethodSpec.parse(method), **flags), **values)

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(f"--arch {self.arch} is unknown; expected one of {', '.join(ARCHITECTURES)}")
        if self.checkpoint is not None and self.random_weights:
            raise UserError("--checkpoint and --random-weights exclude each other; give one of them")
        object.__setattr__(self, "family", self.family or self.architecture.family)
        if self.family not in FAMILIES:
            raise UserError(f"--family {self.family} is unknown; expected {' or '.join(FAMILIES)}")
        if self.decoder_layout and FAMILIES[self.family].pixels.fit != "pad":
            raise UserError(
                f"--decoder-layout {self.decoder_layout} cuts off SAM's padding, and --family {self.family} "
                "has none; leave one of them out"
            )
        own_size = self.architecture.image_size
        object.__setattr__(self, "image_size", self.image_size or own_size)
        patch = self.architecture.patch
        if self.image_size % patch or not 64 <= self.image_size <= 4096:
            raise UserError(
                f"--image-size {self.image_size} is not a multiple of {patch} from 64 to 4096; "
                f"{self.arch} was trained at {own_size}"
            )
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} is negative; expected 0 or more")
        if self.merging.plan_every < 1:
            raise UserError(f"--plan-every {self.merging.plan_every} is too small; expected 1 or more blocks")
        self._check_cells()
        self._check_rates()
        self._check_methods()
        self._check_prompt()
        self._check_precision()
        self._check_target()
        self._check_plugins()

    def _check_cells(self) -> None:
        window, grid = self.architecture.window, self.architecture.grid(self.image_size)
        common = math.gcd(window, grid)
        fitting = [str(cell) for cell in range(2, common + 1) if common % cell == 0]
        expected = f"cell={' or '.join(fitting)}" if fitting else "another --image-size"
        for spec in self._asked:
            cell = spec.options.get("cell")
            if cell is not None and str(cell) not in fitting:
                raise UserError(
                    f"a cell of {cell} x {cell} does not divide both the window of {window} x {window} "
                    f"tokens and the feature map of {grid} x {grid}; expected {expected}"
                )

    def _check_rates(self) -> None:
        whole = self.architecture.global_blocks
        for index, block in enumerate(self.recipe.blocks):
            kind = "global blocks" if index in whole else "window blocks"
            rates = {kind: block.rate}
            if block.rate_prompt is not None:
                rates = {kind: block.rate_prompt, "windows without a prompt": block.rate}
            cell = block.method.options.get("cell")
            # Methods without cells accept the same rates as the others, and remove at most what they can.
            limit = 1 - 1 / (cell or CELL) ** 2
            why = f"the limit of cells of {cell} x {cell} tokens" if cell else "the limit of all methods"
            for where, rate in rates.items():
                if not 0 <= rate <= limit:  # also refuses NaN
                    raise UserError(f"the rate of {where} is {rate:g}; expected 0 to {limit:g}, {why}")

    def _check_methods(self) -> None:
        for spec, method in self._asked.items():
            if method.conflict:
                raise UserError(f"--method {spec} is not possible: {method.conflict}")
            if method.ordered and self.precision is not Precision.FP32:
                raise UserError(
                    f"--method {spec} sorts all tokens, and {self.precision} changes that order; "
                    "choose another or fp32"
                )
            if self.form is Attention.GATHER and method.footprint > 1:
                raise UserError(
                    f"--attention {self.form} does not support place=mean, which --method {spec} needs; "
                    "choose another --attention"
                )

    @cached_property
    def _asked(self) -> dict[MethodSpec, Method]:
        """The distinct methods of the recipe at the default rate, for checks independent of the rate."""
        return {block.method: block.method.build(RATE) for block in self.recipe.blocks}

    def _check_prompt(self) -> None:
        number, whole = self.merging.prompt_windows, self.architecture.global_blocks
        for index, block in enumerate(self.recipe.blocks):
            if block.rate_prompt is not None and (index in whole or not self.prompt_aware):
                why = "is global and has one window" if index in whole else "has no prompt_windows beside it"
                raise UserError(f"block {index} has a rate_prompt, but {why}; leave rate_prompt out")
        if not self.prompt_aware:
            if number:
                raise UserError(f"prompt_windows is {number} without rate_background; give both")
            return
        for spec, method in self._asked.items():
            if not method.takes_prior:
                raise UserError(f"--prompt-aware is not supported by --method {spec}; leave one of them out")
        architecture = self.architecture
        windows = (-(-architecture.grid(self.image_size) // architecture.window)) ** 2
        if windows == 1:
            raise UserError(
                f"--prompt-aware selects windows, and --image-size {self.image_size} has only one; "
                f"expected more than {architecture.patch * architecture.window}"
            )
        if not 0 < number < windows:
            raise UserError(
                f"--prompt-windows is {number}, and --image-size {self.image_size} has {windows} windows; "
                f"expected 1 to {windows - 1}"
            )

    def _check_precision(self) -> None:
        object.__setattr__(self, "int8_skip", tuple(self.int8_skip))  # a list where it comes from JSON
        given = {"--calibrate": self.calibrate, "--int8-skip": self.int8_skip}
        if not self.precision.quantized and (named := [name for name, value in given.items() if value]):
            raise UserError(f"{' and '.join(named)} is for int8 and fp8, not {self.precision}; leave it out")
        known = [kind.of(block) for block in range(self.architecture.depth) for kind in Linear]
        for pattern in self.int8_skip:
            if pattern != AUTO and not fnmatch.filter(known, pattern):
                raise UserError(
                    f"--int8-skip {pattern} fits no layer; expected {AUTO}, or names from {known[0]} to "
                    f"{known[-1]}, with * for any text"
                )
        if all(any(fnmatch.fnmatch(name, pattern) for pattern in self.int8_skip) for name in known):
            raise self.nothing_in_8_bits()

    def nothing_in_8_bits(self) -> UserError:
        """The mistake of leaving out all layers, known here or, with AUTO, only when they are calibrated."""
        return UserError(
            f"--int8-skip {','.join(self.int8_skip)} leaves no layer in 8 bits; leave fewer out, or choose "
            f"another precision than {self.precision}"
        )

    def _check_target(self) -> None:
        if self.form is Attention.OPERATOR and self.dialect.opset < FUSED.opset:
            having = " or ".join(target for target, one in DIALECTS.items() if one.opset >= FUSED.opset)
            raise UserError(
                f"--attention {self.form} needs ONNX opset {FUSED.opset}, and --target {self.written_for} "
                f"has {self.dialect.opset}; expected --target {having}"
            )
        if self.form is Attention.OPERATOR and self.engine and self.precision.around is Precision.FP32:
            raise UserError(
                f"engines with --attention {self.form} need fp16; add --fp16 or leave --attention out"
            )
        if not supports(self.written_for, self.precision):
            having = " or ".join(target for target in Target if supports(target, self.precision))
            raise UserError(
                f"{self.precision} needs ONNX opset {BFLOAT16.opset}, and --target {self.written_for} has "
                f"{self.dialect.opset}; expected --target {having}"
            )

    def _check_plugins(self) -> None:
        if not self.has_plugin_graph:
            return
        option = "--plugins" if self.plugins else "--plugin-graph"
        if self.plugins and self.engine is not Engine.TENSORRT:
            without = f"{self.engine} supports no plugins" if self.engine else "ONNX graphs use no plugins"
            raise UserError(f"--plugins needs --engine {Engine.TENSORRT}: {without}")
        if self.precision is Precision.BF16:
            raise UserError(f"{option} has no kernels for {self.precision}; leave one of them out")
        for block, method in zip(self.recipe.blocks, self.methods(), strict=True):
            if block.merges and not method.has_kernels:
                raise UserError(f"{option} has no kernels for --method {block.method}; leave one of them out")
        if self.merging.plan_every > 1 or any(block.merge_mlp for block in self.recipe.blocks):
            raise UserError(
                f"{option} has no kernels for --merge-mlp and --plan-every; leave one of them out"
            )

    @property
    def architecture(self) -> Architecture:
        """The architecture named by `arch`."""
        return ARCHITECTURES[self.arch]

    @cached_property
    def recipe(self) -> Recipe:
        """The settings of every block."""
        return self.merging.of(self.architecture)

    @property
    def prompt_aware(self) -> bool:
        """Whether the encoder takes a prior."""
        return self.merging.prompt_aware

    @property
    def has_plugin_graph(self) -> bool:
        """Whether the export has the encoder's graph with plugins."""
        return self.plugin_graph or self.plugins is not None

    @property
    def written_for(self) -> Target:
        """The target of the graph: the given one, or the default."""
        return self.target or natural(self.engine, self.precision)

    @property
    def dialect(self) -> Dialect:
        """The ONNX dialect of the target."""
        return dialect(self.written_for, self.precision)

    @property
    def form(self) -> Attention:
        """The form of attention in the graph: the given one, or the default."""
        return self.attention or self._own_form

    @property
    def _own_form(self) -> Attention:
        """The default form of attention of the target in this precision."""
        return self.dialect.forms[self.precision]

    @property
    def name(self) -> str:
        """The default name of the output folder."""
        size = [] if self.image_size == self.architecture.image_size else [f"{self.image_size}px"]
        graph = [] if self.written_for is natural(self.engine, self.precision) else [str(self.written_for)]
        graph += [] if self.form is self._own_form else [f"{self.form}-attention"]
        family = [] if self.family == self.architecture.family else [self.family]
        mixed = ["mixed"] if self.int8_skip else []
        return "-".join([self.arch, *family, *self.merging.parts(), *graph, *size, self.precision, *mixed])

    @property
    def label(self) -> str:
        """The name of its merging in tables."""
        return self.merging.label

    @property
    def rate(self) -> float:
        """The largest rate of its blocks, by which tables sort it."""
        return max(block.rate for block in self.recipe.blocks)

    def methods(self) -> list[Method]:
        """The method of every block."""
        return self.recipe.methods(self.architecture.heads, self.seed)

    def command(self) -> str:
        """The command line that makes this export; options with their default value are left out."""
        words = ["structsam", "export", "--arch", self.arch]
        words += ["--checkpoint", str(self.checkpoint)] if self.checkpoint else []
        words += ["--random-weights"] if self.random_weights else []
        words += [] if self.family == self.architecture.family else ["--family", self.family]
        words += self.merging.words()
        words += ["--seed", str(self.seed)] if self.seed else []
        if self.image_size != self.architecture.image_size:
            words += ["--image-size", str(self.image_size)]
        words += _typed(self.precision)
        words += ["--calibrate", str(self.calibrate)] if self.calibrate else []
        words += ["--int8-skip", ",".join(self.int8_skip)] if self.int8_skip else []
        words += ["--dynamic-batch"] if self.dynamic_batch else []
        words += ["--plugin-graph"] if self.plugin_graph else []
        for name in ("decoder_layout", "target", "attention", "engine", "plugins"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def as_json(self) -> dict[str, Any]:
        """The arguments as JSON values; `from_json` reads them back."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        merging = values.pop("merging")
        values |= merging.as_json() if isinstance(merging, Uniform) else {"recipe": _file(merging)}
        return values | {name: None if values[name] is None else str(values[name]) for name in PATHS}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExportConfig:
        """The config of an export that this version or an older one made.

        Raises:
            UserError: an argument is unknown to this version, or its value is not valid.
        """
        values = _renewed(values)
        kinds: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(PATHS, Path),
            "precision": Precision,
            "decoder_layout": DecoderLayout,
            "target": Target,
            "attention": Attention,
            "engine": Engine,
        }
        own = {one.name for one in dataclasses.fields(cls)} - {"merging"}
        if unknown := [name for name in values if name not in {*own, *FLAGS, "recipe"}]:
            raise UserError(
                f"the export has arguments unknown to this version: {', '.join(unknown)}; export again"
            )
        mine = {name: value for name, value in values.items() if name in own}
        mine |= {name: make(mine[name]) for name, make in kinds.items() if mine.get(name) is not None}
        flags = {name: values[name] for name in FLAGS if name in values}
        return cls(
            **mine, merging=_recipe(values["recipe"]) if "recipe" in values else Uniform.from_json(flags)
        )


def _typed(precision: Precision) -> list[str]:
    """A precision on the command line: by its flags if it has them."""
    if precision is Precision.FP32:
        return []
    flags = [f"--{part}" for part in reversed(precision.parts) if part in (Precision.FP16, Precision.INT8)]
    return flags if len(flags) == len(precision.parts) else ["--precision", str(precision)]


def _file(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON, with the path of its file."""
    return recipe.as_json() | {"source": None if recipe.source is None else str(recipe.source)}


def _recipe(content: dict[str, Any]) -> Recipe:
    """The inverse of `_file`."""
    source = content.get("source")
    rest = {name: value for name, value in content.items() if name != "source"}
    made = Recipe.from_json(rest, "the export's recipe")
    return dataclasses.replace(made, source=None if source is None else Path(source))


def _renewed(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the arguments of an older manifest, in which options of methods were separate arguments."""
    if "fp16" not in values:
        return values
    known = {option.name for own in METHODS.values() for option in own.options}
    options = {name: values[name] for name in known if values.get(name) is not None}
    spec = ":".join([values["method"], *(f"{name}={_text(value)}" for name, value in options.items())])
    kept = {name: value for name, value in values.items() if name not in {*known, "fp16", "method"}}
    precision = Precision.FP16 if values["fp16"] else Precision.FP32
    return kept | {"method": str(MethodSpec.parse(spec)), "precision": precision}


def _text(value: Any) -> str:
    """The value of an option as text; see `MethodSpec.parse`."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
