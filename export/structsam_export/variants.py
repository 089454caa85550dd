"""Merging variants to evaluate: their text form, and their names in tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from structsam_runtime.errors import UserError

from .config import ExportConfig
from .merging.registry import ANSWERS, MethodSpec
from .recipe import Uniform

SHARED = ("rate_window", "rate_global", "skip_blocks", "merge_mlp", "plan_every")
"""Settings of the recipe that are written like options of a method."""
ABLATIONS = {
    "structsam:gradient=central": "Central-Diff",
    "structsam:flatness=mean": "Mean-Flatness",
    "structsam:cells=no": "No-Cell",
    "structsam:selection=random": "Rand-Cell",
    "structsam:destination=max": "Max-Dst",
    "structsam:destination=random": "Rand-Dst",
}
"""The ablations of the paper's Table 4; its first row is `structsam` itself."""
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
"""Choices that the paper leaves open, and ours, one at a time. The authors' public code computes the gradient
within windows, with zeros around them."""


def variants(config: ExportConfig, specs: Sequence[str], rates: Sequence[float]) -> dict[ExportConfig, str]:
    """The configs of every variant at every rate, each once, with their names in tables.

    Args:
        config: architecture, weights, image size and seed; its merging is replaced.
        specs: the variants; see `configured`.
        rates: shares of tokens to remove, above 0.

    Raises:
        UserError: as in `configured`; or a rate is 0 in all blocks.
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
    """A config with the merging of a variant.

    Args:
        config: all other settings.
        spec: a method with its options (see `MethodSpec.parse`), and settings of the recipe (`SHARED`):
            `structsam:selection=random:skip_blocks=0,1`.
        rate: rate of all blocks, unless the spec has `rate_window` or `rate_global`.

    Raises:
        UserError: there is no such method or option, or a value is not valid.
    """
    name, *pairs = spec.split(":")
    shared = [pair for pair in pairs if pair.partition("=")[0] in SHARED]
    method = MethodSpec.parse(":".join([name, *(pair for pair in pairs if pair not in shared)]))
    flags = {"rate_window": rate, "rate_global": rate} | dict(_shared(pair, spec) for pair in shared)
    return dataclasses.replace(config, merging=Uniform(method, **flags))


def _shared(pair: str, spec: str) -> tuple[str, Any]:
    """Parse one of `SHARED`: its name and value."""
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
        raise UserError(f"--method {spec} is not possible: {option} does not take {text!r}") from error
