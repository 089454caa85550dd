"""What an export is asked to be."""

from __future__ import annotations

import dataclasses
import math
import shlex
import typing
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from structsam_runtime.errors import UserError

from .choices import (
    Attention,
    Border,
    Channels,
    Destination,
    Engine,
    Flatness,
    Gradient,
    MethodName,
    Place,
    Reduction,
    Scope,
    Selection,
    Target,
)
from .encoder.plugins import has_kernels
from .merging import ALGM, Identity, Method
from .models.architectures import ARCHITECTURES, PATCH, WINDOW, Architecture
from .options import DESTINATIONS, METHODS, OPTIONS, defaults, flag, parameters
from .rates import RATE
from .targets import DIALECTS, FUSED, Dialect, natural

PATHS = ("checkpoint", "plugins")
"""Arguments that name files."""
LOCAL_ONLY = 5 / 12
"""Share of the depth in which ALGM merges cells only: its own global stage stands at layer 5 of 12."""


@dataclass(frozen=True)
class ExportConfig:
    """Everything that decides what an export contains.

    Options of a method are the method's own defaults where they are not given, and None where the method
    has no such option.

    Attributes:
        arch: a name in ARCHITECTURES.
        checkpoint: a state dict; None takes the architecture's own, unless random_weights.
        random_weights: seeded weights instead of trained ones.
        method: how tokens merge.
        rate_window, rate_global: share of tokens removed in window and in global blocks.
        prompt_windows: how many windows of an image, those with the most prior, `rate_window` is for; the
            encoder then takes a prior. 0 for an encoder that knows no prompts.
        rate_background: share of tokens removed in all other windows; None if there are no such.
        skip_blocks: blocks that do not merge.
        merge_mlp: in blocks that merge, the MLP sees merged tokens too.
        plan_every: of so many blocks of a kind (window or global) that merge, the first decides for all.
        cell: s, tokens along a cell's side.
        channels: what tokens are judged by, all channels or the mean over heads.
        gradient, flatness, selection, cells, destination: see StructSAM; ablations of Table 4.
        scope, border: of the gradient, which the paper leaves open; see `energy.token_energy`.
        place: where the relative position sees a merged cell, at its destination or at its tokens' mean.
        spread: see Hybrid.
        reduction: what a slot holds, the mean of its tokens or the destination.
        proportional: attention counts a slot as often as it has tokens.
        margin: see PiToMe; of block 0, falling to 0 behind the last block.
        seed: of random weights and of random choices; block i draws with seed + i.
        image_size: S, pixels along the side of the encoder's input; 0 is what the weights were made for.
        fp16: half precision with fp32 islands.
        dynamic_batch: leave the encoder's batch open; otherwise it is 1.
        target: what the graph is for; None is the engine's, and the CPU without one.
        attention: how the graph computes attention; None is the target's form.
        engine: build engines too.
        plugins: the library of plugins that the encoder's engine is built with; None for none.
    """

    arch: str
    checkpoint: Path | None = None
    random_weights: bool = False
    method: MethodName = MethodName.STRUCTSAM
    rate_window: float = RATE
    rate_global: float = RATE
    prompt_windows: int = 0
    rate_background: float | None = None
    skip_blocks: tuple[int, ...] = ()
    merge_mlp: bool = False
    plan_every: int = 1
    cell: int | None = None
    channels: Channels | None = None
    gradient: Gradient | None = None
    scope: Scope | None = None
    border: Border | None = None
    flatness: Flatness | None = None
    selection: Selection | None = None
    cells: bool | None = None
    spread: float | None = None
    destination: Destination | None = None
    place: Place | None = None
    reduction: Reduction | None = None
    proportional: bool | None = None
    margin: float | None = None
    seed: int = 0
    image_size: int = 0
    fp16: bool = False
    dynamic_batch: bool = False
    target: Target | None = None
    attention: Attention | None = None
    engine: Engine | None = None
    plugins: Path | None = None

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(f"--arch {self.arch} is unknown; expected one of {', '.join(ARCHITECTURES)}")
        if self.checkpoint is not None and self.random_weights:
            raise UserError("--checkpoint and --random-weights exclude each other; give one of them")
        own_size = self.architecture.image_size
        object.__setattr__(self, "image_size", self.image_size or own_size)
        if self.image_size % PATCH or not 64 <= self.image_size <= 4096:
            raise UserError(
                f"--image-size {self.image_size} is not a multiple of {PATCH} from 64 to 4096; "
                f"{self.arch} was trained at {own_size}"
            )
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} is negative; expected 0 or more")
        if self.plan_every < 1:
            raise UserError(f"--plan-every {self.plan_every} is no number of blocks; expected 1 or more")
        self._resolve_options()
        self._check_target()
        self._check_cell()
        self._check_rates()
        self._check_prompt()
        self._check_plugins()
        depth = self.architecture.depth
        if any(not 0 <= block < depth for block in self.skip_blocks):
            raise UserError(
                f"--skip-blocks {','.join(map(str, self.skip_blocks))} names a block that {self.arch} does "
                f"not have; expected numbers from 0 to {depth - 1}"
            )

    def _resolve_options(self) -> None:
        """The method's own value for every option that was not given; refuse options that it has not."""
        own = defaults(self.method)
        for option in OPTIONS:
            if getattr(self, option) is None:
                object.__setattr__(self, option, own.get(option))
            elif option not in own:
                having = ", ".join(method for method in METHODS if option in defaults(method))
                typed = flag(option, getattr(self, option))
                raise UserError(f"{typed} does not apply to --method {self.method}; only to {having}")
        takes = DESTINATIONS.get(self.method, ())
        if self.destination is not None and self.destination not in takes:
            raise UserError(
                f"--destination {self.destination} is not for --method {self.method}; "
                f"expected {' or '.join(takes)}"
            )
        if self.margin is not None and not -1 <= self.margin <= 1:
            raise UserError(f"--margin {self.margin:g} is no cosine; expected -1 to 1")
        if self.spread is not None and not 1 <= self.spread < math.inf:  # also refuses NaN
            raise UserError(f"--spread {self.spread:g} is too few cells to merge in; expected 1 or more")
        if self.place is Place.MEAN and not self.cells:
            raise UserError("--place mean is that of a cell, and --no-cells has none; leave one of them out")

    def _check_target(self) -> None:
        if self.form is Attention.OPERATOR and self.dialect.opset < FUSED.opset:
            having = " or ".join(target for target, one in DIALECTS.items() if one.opset >= FUSED.opset)
            raise UserError(
                f"--attention {self.form} needs opset {FUSED.opset} of ONNX, and --target {self.written_for} "
                f"has {self.dialect.opset}; expected --target {having}"
            )
        if self.form is Attention.OPERATOR and self.engine and not self.fp16:
            raise UserError(f"--attention {self.form} is built in fp16 alone; add --fp16 or leave it out")
        if self.form is Attention.GATHER and self.place is Place.MEAN:
            raise UserError(f"--attention {self.form} knows no --place {self.place}; leave one of them out")

    def _check_plugins(self) -> None:
        if self.plugins is None:
            return
        if self.engine is not Engine.TENSORRT:
            without = f"{self.engine} takes no plugins" if self.engine else "plugins are for engines"
            raise UserError(f"--plugins goes with --engine {Engine.TENSORRT} alone: {without}")
        if not all(isinstance(method, Identity) or has_kernels(method) for method in self.methods()):
            raise UserError(
                f"--plugins has kernels for {MethodName.STRUCTSAM} with its defaults alone; drop one"
            )
        if self.merge_mlp or self.plan_every > 1:
            raise UserError("--plugins has none for --merge-mlp and --plan-every; drop one")

    def _check_cell(self) -> None:
        if self.cell is None:
            return
        grid = self.image_size // PATCH
        common = math.gcd(WINDOW, grid)
        fitting = [str(cell) for cell in range(2, common + 1) if common % cell == 0]
        if str(self.cell) not in fitting:
            raise UserError(
                f"--cell {self.cell} does not divide both the window of {WINDOW} x {WINDOW} tokens and the "
                f"feature map of {grid} x {grid}; expected {' or '.join(fitting) or 'another --image-size'}"
            )

    def _check_rates(self) -> None:
        cell = self.cell or 2  # methods without cells take the rates that the others take, and are capped
        limit = 1 - 1 / cell**2
        why = f"since cells of {cell} x {cell} tokens cannot lose more" if self.cell else "as for any method"
        rates = {"window blocks": self.rate_window, "global blocks": self.rate_global}
        if self.rate_background is not None:
            rates |= {"windows without a prompt": self.rate_background}
        for where, rate in rates.items():
            if not 0 <= rate <= limit:  # also refuses NaN
                raise UserError(f"the rate of {where} is {rate:g}; expected 0 to {limit:g}, {why}")

    def _check_prompt(self) -> None:
        if not self.prompt_aware:
            if self.prompt_windows:
                raise UserError(f"prompt_windows is {self.prompt_windows} without rate_background; give both")
            return
        if self.method is not MethodName.STRUCTSAM or self.cells is False:
            raise UserError(
                f"--prompt-aware is for cells of --method {MethodName.STRUCTSAM}, not for "
                f"{'--no-cells' if self.cells is False else self.method}; leave one of them out"
            )
        windows = (-(-self.image_size // PATCH // WINDOW)) ** 2
        if windows == 1:
            raise UserError(
                f"--prompt-aware chooses among windows, and --image-size {self.image_size} has only one; "
                f"expected more than {PATCH * WINDOW}"
            )
        if not 0 < self.prompt_windows < windows:
            raise UserError(
                f"--prompt-windows is {self.prompt_windows} of the {windows} at --image-size "
                f"{self.image_size}; expected 1 to {windows - 1}"
            )

    @property
    def architecture(self) -> Architecture:
        """What `arch` stands for."""
        return ARCHITECTURES[self.arch]

    @property
    def written_for(self) -> Target:
        """What the graph is for, whether that was asked for or not."""
        return self.target or natural(self.engine)

    @property
    def dialect(self) -> Dialect:
        """How the graph is written."""
        return DIALECTS[self.written_for]

    @property
    def form(self) -> Attention:
        """How the graph computes attention, whether that was asked for or not."""
        return self.attention or self._own_form

    @property
    def _own_form(self) -> Attention:
        """What the dialect has in this precision."""
        return self.dialect.half if self.fp16 else self.dialect.single

    @property
    def prompt_aware(self) -> bool:
        """Whether the encoder takes a prior."""
        return self.rate_background is not None

    @property
    def rate_unprompted(self) -> float:
        """Share of tokens removed in windows that no prompt is in."""
        return self.rate_window if self.rate_background is None else self.rate_background

    @property
    def precision(self) -> str:
        """`fp32` or `fp16`."""
        return "fp16" if self.fp16 else "fp32"

    @property
    def name(self) -> str:
        """What the output folder is called unless the user says otherwise."""
        window, whole = f"{self.rate_unprompted * 100:g}", f"{self.rate_global * 100:g}"
        prompt = [f"prompt{self.prompt_windows}r{self.rate_window * 100:g}"] if self.prompt_aware else []
        rate = f"r{window}" if window == whole else f"r{window}w{whole}g"
        skipped = [f"skip{block}" for block in self.skip_blocks]
        size = [] if self.image_size == self.architecture.image_size else [f"{self.image_size}px"]
        shared = ["mlp"] if self.merge_mlp else []
        shared += [f"plan{self.plan_every}"] if self.plan_every > 1 else []
        graph = [] if self.written_for is natural(self.engine) else [str(self.written_for)]
        graph += [] if self.form is self._own_form else [f"{self.form}-attention"]
        parts = [self.arch, self.method, *prompt, rate, *shared, *self.differences(), *skipped, *graph, *size]
        parts += [self.precision]
        return "-".join(parts)

    def differences(self) -> list[str]:
        """Options that are not the method's own, as parts of a name."""
        own, parts = defaults(self.method), []
        for option in OPTIONS:
            value = getattr(self, option)
            if value != own.get(option):
                parts.append(
                    (option if value else f"no-{option}")
                    if isinstance(value, bool)
                    else f"{value}-{option}"
                    if isinstance(value, StrEnum)
                    else f"{option}{value:g}"
                )
        return parts

    def command(self) -> str:
        """What a person types for this config: options that are not what they are by themselves."""
        plain = ExportConfig(self.arch, method=self.method)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(plain, name)}
        if self.prompt_aware:  # whose rates are others by themselves
            changed |= {"rate_window": self.rate_window, "rate_global": self.rate_global}
        elif self.rate_window == self.rate_global and "rate_window" in changed:
            changed = {"rate": changed["rate_window"]} | changed
            del changed["rate_window"], changed["rate_global"]
        words = ["structsam", "export", "--arch", self.arch]
        words += ["--prompt-aware"] if self.prompt_aware else []
        if self.method is not MethodName.STRUCTSAM:
            words += ["--method", self.method]
        for name, value in changed.items():
            words += [flag(name, value)] + ([] if isinstance(value, bool) else [_typed(value)])
        return shlex.join(words)

    def as_json(self) -> dict[str, Any]:
        """The arguments as JSON has them; `from_json` reads them back."""
        values = asdict(self) | {"skip_blocks": list(self.skip_blocks)}
        return values | {name: None if values[name] is None else str(values[name]) for name in PATHS}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExportConfig:
        """The config that an export was made with."""
        kinds: dict[str, Any] = {
            **dict.fromkeys(PATHS, Path),
            "skip_blocks": tuple,
            "method": MethodName,
            "channels": Channels,
            "gradient": Gradient,
            "scope": Scope,
            "border": Border,
            "flatness": Flatness,
            "selection": Selection,
            "destination": Destination,
            "place": Place,
            "reduction": Reduction,
            "target": Target,
            "attention": Attention,
            "engine": Engine,
        }
        known = {
            name: kinds[name](value) for name, value in values.items() if name in kinds and value is not None
        }
        return cls(**values | known)

    def methods(self) -> list[Method]:
        """How each block merges."""
        return [self._method(index) for index in range(self.architecture.depth)]

    def _method(self, index: int) -> Method:
        whole = index in self.architecture.global_blocks
        rate = self.rate_global if whole else self.rate_unprompted
        prompted = self.prompt_aware and not whole
        rate_prompt = self.rate_window if prompted else 0.0
        if not max(rate, rate_prompt) or index in self.skip_blocks:
            return Identity()
        depth, kind = self.architecture.depth, METHODS[self.method]
        arguments = {option: getattr(self, option) for option in OPTIONS} | {
            "rate": rate,
            "prompt_windows": self.prompt_windows if prompted else 0,
            "rate_prompt": rate_prompt,
            "heads": self.architecture.heads if self.channels is Channels.HEADS else 1,
            "margin": None if self.margin is None else self.margin * (1 - index / depth),
            "local": 1.0 if index < LOCAL_ONLY * depth else ALGM.local,
            "seed": self.seed + index,
        }
        method: Method = kind(**{name: arguments[name] for name in parameters(kind)})
        return method


def option_type(option: str) -> Any:
    """What makes an option's value from its text."""
    (kind,) = set(typing.get_args(typing.get_type_hints(ExportConfig)[option])) - {type(None)}
    return kind


def _typed(value: Any) -> str:
    """How an option's value is typed."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
