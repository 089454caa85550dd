"""Ways to merge tokens: their names, their options, and how a person writes them. Imports no PyTorch.

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
"""How options that are on or off are written."""


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name: as it is written, and the name of the method's argument.
        default: what the method does unless it is told otherwise; its type is that of all values.
        help: one line for a person.
        values: the members of an enumeration that the method knows; empty for all.
        least, most: bounds of a number.
    """

    name: str
    default: Any
    help: str
    values: tuple[StrEnum, ...] = ()
    least: float = -math.inf
    most: float = math.inf

    @property
    def expected(self) -> str:
        """What its values look like, for messages."""
        if isinstance(self.default, bool):
            return " or ".join(ANSWERS)
        if isinstance(self.default, StrEnum):
            return " or ".join(self.values or type(self.default))
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if math.isinf(self.least):
            return kind
        return f"{kind} from {self.least:g}" + ("" if math.isinf(self.most) else f" to {self.most:g}")

    def parse(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ValueError: none.
        """
        if isinstance(self.default, bool):
            if text not in ANSWERS:
                raise ValueError(text)
            return ANSWERS[text]
        return self.checked(type(self.default)(text))

    def checked(self, value: Any) -> Any:
        """The value itself.

        Raises:
            ValueError: it is of another type, or none that the method knows.
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
        """How a value is written."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Entry:
    """A method, before anything of it is imported.

    Attributes:
        name: as it is written.
        label: as tables call it; the paper's name where it has one.
        implementation: `module:Class`; a `Method` whose arguments are `rate` and the options.
        options: in the order in which names of exports list them.
    """

    name: str
    label: str
    implementation: str
    options: tuple[Option, ...]

    def load(self) -> type[Method]:
        """Its class."""
        module, _, name = self.implementation.partition(":")
        kind: type[Method] = getattr(importlib.import_module(module), name)
        return kind

    def option(self, name: str) -> Option:
        """One of its options.

        Raises:
            UserError: it has none of that name; names those that exist.
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
    """A method with the options that are not its own.

    Attributes:
        name: of an entry.
        changed: option and value, where the value is not the default, in the entry's order.
    """

    name: str
    changed: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] | None = None) -> MethodSpec:
        """A method by its name and its options' values.

        Raises:
            UserError: there is no such method or option, or an option does not take the value.
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
        """`NAME[:OPTION=VALUE]...`, as `adjacent:reduction=replace:proportional=no`.

        Raises:
            UserError: as `of`; or an option without a value.
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
        """The same method with some options set; None leaves an option as it is.

        Raises:
            UserError: as `of`.
        """
        given = {name: value for name, value in options.items() if value is not None}
        return MethodSpec.of(self.name, dict(self.changed) | given)

    def differences(self) -> list[str]:
        """Options that are not the method's own, as parts of an export's name."""
        return [_difference(name, value) for name, value in self.changed]

    @property
    def label(self) -> str:
        """What tables call it: its label, and the options that are not its own."""
        return ", ".join([entry(self.name).label, *(part.replace("-", " ") for part in self.differences())])

    def build(self, rate: float, **others: Any) -> Method:
        """The method at a rate.

        Args:
            rate: share of tokens to remove.
            others: arguments of the class that are no options: `seed`, or those of prompts.
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


CELL = Option("cell", 2, "Tokens along a cell's side.", least=2)
FULL = Option("channels", Channels.FULL, "Judge tokens by all channels (full) or by the mean over heads.")
HEADS = Option("channels", Channels.HEADS, "Compare tokens by the mean over heads or by all channels (full).")
GRADIENT = Option("gradient", Gradient.SOBEL, "First-order operator of the energy (Table 4).")
SCOPE = Option("scope", Scope.MAP, "Take the gradient over the map, or within each window.")
BORDER = Option("border", Border.REPLICATE, "What lies around the map: its outermost tokens again, or zeros.")
FLATNESS = Option("flatness", Flatness.MAX, "What ranks cells (Table 4).")
SELECTION = Option("selection", Selection.FLATNESS, "Merge the flattest cells, or random ones (Table 4).")
CELLS = Option("cells", True, "no: merge the calmest tokens wherever they lie (Table 4).")
SPREAD = Option("spread", 1.15, "How many cells may merge, in multiples of those that must.", least=1)
CALMEST = Option(
    "destination",
    Destination.MIN,
    "The token of a cell that gives a slot its place: of least or most energy, or random (Table 4).",
    (Destination.MIN, Destination.MAX, Destination.RANDOM),
)
DRAWN = Option(
    "destination",
    Destination.RANDOM,
    "The token of a cell that others merge into.",
    (Destination.RANDOM, Destination.FIRST),
)
LATTICE = Option(
    "destination",
    Destination.LATTICE,
    "Tokens that others merge into: at one place of every cell, or anywhere.",
    (Destination.LATTICE, Destination.RANDOM),
)
PLACE = Option("place", Place.DESTINATION, "Where the relative position sees a merged cell.")
MEAN = Option("reduction", Reduction.MEAN, "A slot holds the mean of its tokens, or one of them.")
REPLACE = Option("reduction", Reduction.REPLACE, "A slot holds one of its tokens, or their mean.")
ALIKE = Option("proportional", False, "yes: attention counts a slot as often as it has tokens.")
COUNTED = Option("proportional", True, "no: attention counts a slot once, however many tokens it has.")
MARGIN = Option("margin", 0.75, "The cosine from which a neighbour counts, in block 0.", least=-1, most=1)

ENERGY = (GRADIENT, SCOPE, BORDER)
"""Options of methods that take a gradient."""
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
"""What `--method` takes."""
DEFAULT = "structsam"


def entry(name: str) -> Entry:
    """A method by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in METHODS:
        raise UserError(f"--method {name} is unknown; expected one of {', '.join(METHODS)}")
    return METHODS[name]
