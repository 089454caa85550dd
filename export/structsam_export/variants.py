"""Ways of merging to evaluate: how they are asked for, and what tables call them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from structsam_runtime.errors import UserError

from .config import ExportConfig
from .merging.registry import ANSWERS, MethodSpec
from .recipe import Uniform

SHARED = ("rate_window", "rate_global", "skip_blocks", "merge_mlp", "plan_every")
"""What is written like an option of a method and is the recipe's."""
ABLATIONS = {
    "structsam:gradient=central": "Central-Diff",
    "structsam:flatness=mean": "Mean-Flatness",
    "structsam:cells=no": "No-Cell",
    "structsam:selection=random": "Rand-Cell",
    "structsam:destination=max": "Max-Dst",
    "structsam:destination=random": "Rand-Dst",
}
"""Table 4 of the paper, but for its first row, which is `structsam`."""
CHOICES = (
    "structsam:channels=heads",
    "structsam:flatness=variance",
    "structsam:flatness=cosine",
    "structsam:scope=window",
    "structsam:border=zero",
    "structsam:scope=window:border=zero",
    "structsam:place=mean",
    "structsam:proportional=yes",
    "structsam:reduction=replace",
    "structsam:rate_window=0",
    "structsam:rate_global=0",
    "structsam:skip_blocks=0",
    "bipartite",
    "bipartite:scope=window:border=zero",
    "bipartite:proportional=yes",
    "bipartite:reduction=replace",
    "bipartite:reduction=replace:rate_window=0",
    "bipartite:reduction=replace:rate_global=0",
    "tome:proportional=yes",
    "tomesd:proportional=yes",
    "tomesd:reduction=replace",
    "pitome:proportional=yes",
    "vidtome:proportional=yes",
    "algm:proportional=yes",
    "hybrid",
    "hybrid:reduction=mean",
    "hybrid:proportional=yes",
    "hybrid:spread=1",
    "hybrid:spread=1.5",
    "hybrid:flatness=variance",
    "hybrid:flatness=cosine",
    "adjacent:channels=full",
    "adjacent:destination=first",
    "adjacent:proportional=no",
    "adjacent:reduction=replace",
)
"""What the paper leaves open, one choice at a time, and what is ours. The authors' public code takes the
gradient within windows, with zeros around."""


def variants(config: ExportConfig, specs: Sequence[str], rates: Sequence[float]) -> dict[ExportConfig, str]:
    """Every way of merging at every rate, each once, and what the tables call it.

    Args:
        config: architecture, weights, image size and seed; its merging does not count.
        specs: see `configured`.
        rates: shares of tokens to remove.

    Raises:
        UserError: as in `configured`; or nothing would be removed.
    """
    found = {}
    for spec in specs:
        for rate in rates:
            merged = configured(config, spec, rate)
            if not any(block.merges for block in merged.recipe.blocks):
                raise UserError("--rate 0 is the unmerged model, which is always evaluated; leave it out")
            found[merged] = ABLATIONS.get(spec) or merged.label
    return found


def configured(config: ExportConfig, spec: str, rate: float) -> ExportConfig:
    """A config with another way of merging.

    Args:
        config: everything else.
        spec: a method with its options (see `MethodSpec.parse`), among which may stand what is SHARED:
            `structsam:selection=random:skip_blocks=0,1`.
        rate: of all blocks, unless `rate_window` or `rate_global` says otherwise.

    Raises:
        UserError: no such method, option or value.
    """
    name, *pairs = spec.split(":")
    shared = [pair for pair in pairs if pair.partition("=")[0] in SHARED]
    method = MethodSpec.parse(":".join([name, *(pair for pair in pairs if pair not in shared)]))
    flags = {"rate_window": rate, "rate_global": rate} | dict(_shared(pair, spec) for pair in shared)
    return dataclasses.replace(config, merging=Uniform(method, **flags))


def _shared(pair: str, spec: str) -> tuple[str, Any]:
    """One of SHARED and its value."""
    option, _, text = pair.partition("=")
    kinds: dict[str, Callable[[str], Any]] = {
        "rate_window": float,
        "rate_global": float,
        "skip_blocks": lambda numbers: tuple(int(number) for number in numbers.split(",")),
        "merge_mlp": ANSWERS.__getitem__,
        "plan_every": int,
    }
    try:
        return option, kinds[option](text)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--method {spec} gives {option} the value {text!r}, which it does not take"
        ) from error
