"""The merging methods: names, options and their text form. Imports no PyTorch.

A method is one file in `methods/` and one entry here. The grammar is the same on the command line, in a
recipe and in a Python call: `adjacent:reduction=replace:proportional=no`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from structsam_runtime.errors import UserError

from ..choices import (
    Border,
    Channels,
    Destination,
    Flatness,
    Gradient,
    Place,
    Reduction,
    Scope,
    Selection,
    StrEnum,
)

if TYPE_CHECKING:
    from .method import Method

ANSWERS = {"yes": True, "no": False}
"""The values of boolean options, as text."""


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name: name on the command line, and of the argument of the method's class.
        default: value if the option is not given; every value has the same type.
        help: one line for `--methods`.
        values: members of the enumeration that the method supports; empty for all.
        least, most: bounds of a number, both included.
    """

    name: str
    default: Any
    help: str
    values: tuple[StrEnum, ...] = ()
    least: float = -math.inf
    most: float = math.inf

    @property
    def expected(self) -> str:
        """The values it takes, in words, for messages."""
        if isinstance(self.default, bool):
            return " or ".join(ANSWERS)
        if isinstance(self.default, StrEnum):
            return " or ".join(self.values or type(self.default))
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if math.isinf(self.least):
            return kind
        return f"{kind} from {self.least:g}" + ("" if math.isinf(self.most) else f" to {self.most:g}")

    def parse(self, text: str) -> Any:
        """Parse a value.

        Raises:
            ValueError: the text is not a value of this option.
        """
        if isinstance(self.default, bool):
            if text not in ANSWERS:
                raise ValueError(text)
            return ANSWERS[text]
        return self.checked(type(self.default)(text))

    def checked(self, value: Any) -> Any:
        """The value, unchanged, if it is valid.

        Raises:
            ValueError: it has another type, is out of bounds, or the method does not support it.
        """
        if type(value) is not type(self.default):
            raise ValueError(value)
        if isinstance(value, StrEnum):
            if self.values and value not in self.values:
                raise ValueError(value)
        elif not self.least <= value <= self.most or math.isinf(value):  # also refuses NaN
            raise ValueError(value)
        return value

    def text(self, value: Any) -> str:
        """A value as text; `parse` reads it back."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Entry:
    """The description of a method; its class is imported by `load`.

    Attributes:
        name: name on the command line.
        label: name in tables; the paper's, if it has one.
        implementation: `module:Class`; a `Method` whose arguments are `rate` and the options.
        options: its options, in the order of their appearance in the name of an export.
    """

    name: str
    label: str
    implementation: str
    options: tuple[Option, ...]

    def load(self) -> type[Method]:
        """Import the class of the method."""
        module, _, name = self.implementation.partition(":")
        kind: type[Method] = getattr(importlib.import_module(module), name)
        return kind

    def option(self, name: str) -> Option:
        """The option of that name.

        Raises:
            UserError: there is no such option; the message lists the existing ones.
        """
        for option in self.options:
            if option.name == name:
                return option
        raise UserError(
            f"--method {self.name} has no option {name}; expected one of "
            f"{', '.join(option.name for option in self.options) or 'none'}"
        )


@dataclass(frozen=True)
class MethodSpec:
    """A method with the values of its options.

    Attributes:
        name: name of an entry.
        changed: pairs of option and value that differ from the default, in the entry's order.
    """

    name: str
    changed: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] | None = None) -> MethodSpec:
        """A method from its name and the values of its options.

        Raises:
            UserError: there is no such method or option, or a value is not valid.
        """
        own, given = entry(name), options or {}
        for option in given:
            own.option(option)
        values = {
            option: _checked(own, option, given[option.name])
            for option in own.options
            if option.name in given
        }
        changed = ((option.name, value) for option, value in values.items() if value != option.default)
        return cls(name, tuple(changed))

    @classmethod
    def parse(cls, text: str) -> MethodSpec:
        """Parse `NAME[:OPTION=VALUE]...`, for example `adjacent:reduction=replace:proportional=no`.

        Raises:
            UserError: as `of`; or an option has no value.
        """
        name, *pairs = text.split(":")
        own, values = entry(name), dict[str, Any]()
        for pair in pairs:
            option, _, value = pair.partition("=")
            values[option] = _parsed(own, own.option(option), value)
        return cls.of(name, values)

    def __str__(self) -> str:
        own = entry(self.name)
        pairs = (f"{name}={own.option(name).text(value)}" for name, value in self.changed)
        return ":".join([self.name, *pairs])

    @property
    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return {option.name: option.default for option in entry(self.name).options} | dict(self.changed)

    def having(self, **options: Any) -> MethodSpec:
        """The same method with some options changed; None keeps the current value.

        Raises:
            UserError: as `of`.
        """
        given = {name: value for name, value in options.items() if value is not None}
        return MethodSpec.of(self.name, dict(self.changed) | given)

    def differences(self) -> list[str]:
        """Options that differ from the default, as parts of an export's name."""
        return [_difference(name, value) for name, value in self.changed]

    @property
    def label(self) -> str:
        """Name in tables: the label of the entry, and the options that differ from the default."""
        return ", ".join([entry(self.name).label, *(part.replace("-", " ") for part in self.differences())])

    def build(self, rate: float, **others: Any) -> Method:
        """Instantiate the method.

        Args:
            rate: share of tokens to remove, in [0, 1).
            others: arguments of the class that are not options: `seed`, `prompt_windows`, `rate_prompt`.
        """
        kind: Any = entry(self.name).load()
        method: Method = kind(rate=rate, **dict(self.changed), **others)
        return method


def _checked(own: Entry, option: Option, value: Any) -> Any:
    try:
        return option.checked(value)
    except ValueError as error:
        raise _refusal(own, option, value) from error


def _parsed(own: Entry, option: Option, text: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        raise _refusal(own, option, text) from error


def _refusal(own: Entry, option: Option, value: object) -> UserError:
    return UserError(f"--method {own.name}:{option.name}={value} is not possible; expected {option.expected}")


def _difference(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    return f"{value}-{name}" if isinstance(value, StrEnum) else f"{name}{value:g}"


CELL = Option("cell", 2, "Rows and columns of a cell, in tokens.", least=2)
FULL = Option("channels", Channels.FULL, "Compute scores on all channels (full), or on the mean over heads.")
HEADS = Option("channels", Channels.HEADS, "Compare tokens by the mean over heads or by all channels (full).")
GRADIENT = Option("gradient", Gradient.SOBEL, "Gradient operator of the energy (Table 4).")
SCOPE = Option("scope", Scope.MAP, "Compute the gradient over the map, or within each window.")
BORDER = Option("border", Border.REPLICATE, "Padding of the gradient: replicated outermost tokens, or zeros.")
FLATNESS = Option("flatness", Flatness.MAX, "Score that ranks cells (Table 4).")
SELECTION = Option("selection", Selection.FLATNESS, "Merge the flattest cells, or random ones (Table 4).")
CELLS = Option("cells", True, "no: merge the tokens of lowest energy, without a grid of cells (Table 4).")
SPREAD = Option("spread", 1.15, "Candidate cells, as a multiple of the cells Algorithm 1 merges.", least=1)
CALMEST = Option(
    "destination",
    Destination.MIN,
    "Destination token of a cell: the one of lowest or highest energy, or a random one (Table 4).",
    (Destination.MIN, Destination.MAX, Destination.RANDOM),
)
DRAWN = Option(
    "destination",
    Destination.RANDOM,
    "Destination token of a cell: a random one, or the first.",
    (Destination.RANDOM, Destination.FIRST),
)
LATTICE = Option(
    "destination",
    Destination.LATTICE,
    "Destination tokens: one place of every cell (lattice), or random tokens of the window.",
    (Destination.LATTICE, Destination.RANDOM),
)
PLACE = Option("place", Place.DESTINATION, "Relative position of a merged cell: its destination or its mean.")
MEAN = Option("reduction", Reduction.MEAN, "A slot is the mean of its tokens, or its destination (replace).")
REPLACE = Option("reduction", Reduction.REPLACE, "A slot is its destination, or the mean of its tokens.")
ALIKE = Option("proportional", False, "yes: add log(size) of a slot to the logits of its key.")
COUNTED = Option("proportional", True, "no: do not add log(size) of a slot to the logits of its key.")
MARGIN = Option("margin", 0.75, "Cosine from which a neighbour counts, in block 0.", least=-1, most=1)

ENERGY = (GRADIENT, SCOPE, BORDER)
"""Options of methods that compute a gradient."""
_METHODS = "structsam_export.merging.methods"

METHODS = {
    one.name: one
    for one in (
        Entry(
            "structsam",
            "StructSAM",
            f"{_METHODS}.structsam:StructSAM",
            (CELL, FULL, *ENERGY, FLATNESS, SELECTION, CELLS, CALMEST, PLACE, MEAN, ALIKE),
        ),
        Entry(
            "bipartite",
            "StructSAM (bipartite)",
            f"{_METHODS}.bipartite:Bipartite",
            (CELL, HEADS, *ENERGY, CALMEST, MEAN, ALIKE),
        ),
        Entry("tome", "ToMe", f"{_METHODS}.tome:ToMe", (HEADS, MEAN, ALIKE)),
        Entry("tomesd", "ToMeSD", f"{_METHODS}.tomesd:ToMeSD", (CELL, HEADS, DRAWN, MEAN, ALIKE)),
        Entry("pitome", "PiToMe", f"{_METHODS}.pitome:PiToMe", (HEADS, MEAN, ALIKE, MARGIN)),
        Entry("vidtome", "VidToMe", f"{_METHODS}.vidtome:VidToMe", (CELL, HEADS, LATTICE, REPLACE, ALIKE)),
        Entry("algm", "ALGM", f"{_METHODS}.algm:ALGM", (CELL, HEADS, MEAN, ALIKE)),
        Entry(
            "hybrid",
            "Hybrid (ours)",
            f"{_METHODS}.hybrid:Hybrid",
            (CELL, HEADS, *ENERGY, FLATNESS, SPREAD, CALMEST, REPLACE, ALIKE),
        ),
        Entry(
            "adjacent",
            "Adjacent (ours)",
            f"{_METHODS}.adjacent:Adjacent",
            (CELL, HEADS, DRAWN, MEAN, COUNTED),
        ),
    )
}
"""The methods by name."""
DEFAULT = "structsam"


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        UserError: there is no such method; the message lists the existing ones.
    """
    if name not in METHODS:
        raise UserError(f"--method {name} is unknown; expected one of {', '.join(METHODS)}")
    return METHODS[name]
