"""Ways of merging to evaluate: how they are asked for, and what tables call them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from structsam_runtime.errors import UserError

from .choices import MethodName
from .config import ExportConfig, option_type
from .options import OPTIONS

PAPER_NAMES = {
    MethodName.STRUCTSAM: "StructSAM",
    MethodName.BIPARTITE: "StructSAM (bipartite)",
    MethodName.TOME: "ToMe",
    MethodName.TOMESD: "ToMeSD",
    MethodName.PITOME: "PiToMe",
    MethodName.VIDTOME: "VidToMe",
    MethodName.ALGM: "ALGM",
    MethodName.HYBRID: "Hybrid (ours)",
    MethodName.ADJACENT: "Adjacent (ours)",
}
FLAGS = ("cells", "proportional", "merge_mlp")
"""Options that are on or off."""
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
            if not max(merged.rate_window, merged.rate_global):
                raise UserError("--rate 0 is the unmerged model, which is always evaluated; leave it out")
            found[merged] = ABLATIONS.get(spec) or label_of(merged)
    return found


def configured(config: ExportConfig, spec: str, rate: float) -> ExportConfig:
    """A config with another way of merging.

    Args:
        config: everything else.
        spec: a method, and its options if they are not its own: `structsam`, `bipartite:reduction=replace`,
            `structsam:selection=random:skip_blocks=0,1`; what is on or off (see FLAGS) takes yes or no.
        rate: of all blocks, unless the options name `rate_window` or `rate_global`.

    Raises:
        UserError: no such method, option or value.
    """
    name, *pairs = spec.split(":")
    if name not in list(MethodName):
        raise UserError(f"--method {name} is unknown; expected one of {', '.join(MethodName)}")
    # What another method left behind does not count.
    values: dict[str, Any] = dict.fromkeys(OPTIONS) | {"method": MethodName(name), "skip_blocks": ()}
    values |= {"rate_window": rate, "rate_global": rate, "prompt_windows": 0, "rate_background": None}
    values |= {"merge_mlp": False, "plan_every": 1}
    for pair in pairs:
        option, _, text = pair.partition("=")
        values[option] = _value(option, text, spec)
    return dataclasses.replace(config, **values)


def _value(option: str, text: str, spec: str) -> Any:
    """An option's value from its text."""
    kinds: dict[str, Callable[[str], Any]] = {
        **{name: option_type(name) for name in OPTIONS},
        **dict.fromkeys(FLAGS, lambda answer: {"yes": True, "no": False}[answer]),
        "plan_every": int,
        "skip_blocks": lambda numbers: tuple(int(number) for number in numbers.split(",")),
        "rate_window": float,
        "rate_global": float,
    }
    if option not in kinds:
        raise UserError(f"--method {spec} has no option {option}; expected one of {', '.join(kinds)}")
    try:
        return kinds[option](text)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--method {spec} gives {option} the value {text!r}, which it does not take"
        ) from error


def label_of(config: ExportConfig) -> str:
    """What the tables call a way of merging: the paper's name, and the options that are not its own."""
    parts = [PAPER_NAMES[config.method], *(part.replace("-", " ") for part in config.differences())]
    if config.prompt_aware:
        parts.append(f"prompt-aware with {config.rate_window:g} in {config.prompt_windows} windows")
    if not config.rate_unprompted or not config.rate_global:
        parts.append(f"only in {'window' if config.rate_unprompted else 'global'} blocks")
    elif config.rate_unprompted != config.rate_global:
        parts.append(f"{config.rate_unprompted:g} in window and {config.rate_global:g} in global blocks")
    if config.skip_blocks:
        parts.append(f"not in block {' '.join(map(str, config.skip_blocks))}")
    parts += ["MLP merged"] if config.merge_mlp else []
    parts += [f"one plan for {config.plan_every} blocks"] if config.plan_every > 1 else []
    return ", ".join(parts)
