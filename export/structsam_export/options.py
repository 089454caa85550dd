"""What every method takes, and what it takes by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from .choices import Channels, Destination, MethodName
from .merging import ALGM, Adjacent, Bipartite, Hybrid, PiToMe, StructSAM, ToMe, ToMeSD, VidToMe

METHODS: dict[MethodName, type[Any]] = {
    MethodName.STRUCTSAM: StructSAM,
    MethodName.BIPARTITE: Bipartite,
    MethodName.TOME: ToMe,
    MethodName.TOMESD: ToMeSD,
    MethodName.PITOME: PiToMe,
    MethodName.VIDTOME: VidToMe,
    MethodName.ALGM: ALGM,
    MethodName.HYBRID: Hybrid,
    MethodName.ADJACENT: Adjacent,
}
"""What `--method` takes. An option applies to the methods that have an argument of its name."""
DESTINATIONS = {
    MethodName.STRUCTSAM: (Destination.MIN, Destination.MAX, Destination.RANDOM),
    MethodName.BIPARTITE: (Destination.MIN, Destination.MAX, Destination.RANDOM),
    MethodName.TOMESD: (Destination.RANDOM, Destination.FIRST),
    MethodName.VIDTOME: (Destination.LATTICE, Destination.RANDOM),
    MethodName.HYBRID: (Destination.MIN, Destination.MAX, Destination.RANDOM),
    MethodName.ADJACENT: (Destination.RANDOM, Destination.FIRST),
}
OPTIONS = (
    "cell",
    "channels",
    "gradient",
    "scope",
    "border",
    "flatness",
    "selection",
    "cells",
    "spread",
    "destination",
    "place",
    "reduction",
    "proportional",
    "margin",
)
"""Options of methods, in the order in which names of exports list them."""


def parameters(kind: type[Any]) -> list[str]:
    """Names of a method's arguments."""
    return [field.name for field in dataclasses.fields(kind)]


def defaults(method: MethodName) -> dict[str, Any]:
    """A method's options, and their values where none are given."""
    values = {field.name: field.default for field in dataclasses.fields(METHODS[method])}
    channels = Channels.FULL if method is MethodName.STRUCTSAM else Channels.HEADS
    return {name: values[name] for name in OPTIONS if name in values} | {"channels": channels}


def flag(option: str, value: object) -> str:
    """How an option is typed to have a value. Cells can only be switched off."""
    off = value is False or option == "cells"
    return f"--{'no-' if off else ''}{option.replace('_', '-')}"
