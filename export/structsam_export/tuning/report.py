"""The report of a search: one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from scipy.stats import spearmanr

from structsam_runtime.colours import code

from ..recipe import BlockRecipe
from .core import Tuned
from .curve import curve, mark
from .goal import Kind
from .latency import Timed
from .settings import GMAC, MS
from .shots import GAINED, LOST, Shot
from .trying import Tried

PAGE = Path(__file__).with_name("page.html")


def report(
    found: Tuned, shown: Sequence[Shot], subject: str, command: str, settings: Sequence[BlockRecipe]
) -> str:
    """The page as HTML.

    Args:
        found: the result of a search.
        shown: pictures of masks.
        subject: model and pictures, in words.
        command: what to type to export the recipe.
        settings: those of the search, in the order of `found.errors`.
    """
    best, series = found.best, _series(found)
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=f"Recipe {escape(best.recipe.name)}",
        subject=escape(subject),
        cards=_cards(found),
        verdict=escape(verdict(found)),
        latency=f"<p>{escape(told_times(found.timed, found))}</p>" if found.timed else "",
        command=escape(command),
        number=len(found.tried_on),
        curve=curve(list(series.values()), best, found.prices.whole, _line(found), found.prices.unit),
        key=_key(found, list(series)),
        strip="".join(_block(index, block, found) for index, block in enumerate(best.recipe.blocks)),
        lost=code(LOST),
        gained=code(GAINED),
        shots="".join(map(_shot, shown)),
        additive=escape(additivity([*found.curve, *found.uniform])),
        price=f"<th>{MS.axis}</th>" if found.prices.unit is MS else "",
        tried="".join(_row(one, one is best) for some in series.values() for one in some),
        measured=len(found.measured),
        blocks="".join(f"<th>{index}</th>" for index in range(len(found.errors))),
        errors="".join(map(_errors, settings, found.errors.T)),
    )


def verdict(found: Tuned) -> str:
    """What was asked for and what came of it, in a sentence."""
    agreement, share = found.best.agreement, found.best.price / found.prices.whole
    told = f"agreement {agreement.mean:.1%}, interval {agreement.low:.1%} to {agreement.high:.1%}"
    if found.goal.kind is Kind.BUDGET:
        return (
            f"Of the recipes that were tried, the cheapest whose interval begins at {found.goal.value:.1%} "
            f"or above: {told}, at {share:.0%} of the {found.prices.unit.what}."
        )
    by = " by predicted latency" if found.timed else ""
    return (
        f"Of the recipes that were tried, the one with the highest agreement within {found.goal.kind.value} "
        f"{found.goal.value:g}{by}: {told}."
    )


def told_times(timed: Timed, found: Tuned) -> str:
    """What whole encoders took, and what was predicted, in a sentence."""
    unmerged, merged = (MS.told(time) for time in (timed.unmerged, timed.merged))
    sums = (MS.told(time) for time in (found.prices.whole, found.best.price))
    return (
        f"On {timed.runner} the encoder takes {unmerged} unmerged and {merged} with the recipe, "
        f"{timed.speedup:.2f} times as fast. Times of single blocks, by which the recipe was "
        f"chosen, predicted {' and '.join(sums)}. {timed.machine}."
    )


def additivity(tried: Sequence[Tried]) -> str:
    """How well sums over blocks predict the errors of whole recipes, in words."""
    known = [one for one in tried if one.predicted]
    if len(known) < 3:
        return "Too few recipes were tried to compare predicted and measured errors."
    predicted, measured = (np.array([getattr(one, name) for one in known]) for name in ("predicted", "error"))
    ratio, rank = measured / predicted, float(spearmanr(predicted, measured).statistic)
    return (
        f"A recipe is chosen by the sum of its blocks' errors. Over {len(known)} recipes the rank "
        "correlation of this sum with the error of the whole recipe, on other pictures, is "
        f"{rank:.2f}; the measured error is {ratio.min():.2f} to {ratio.max():.2f} times the predicted one."
    )


def _series(found: Tuned) -> dict[str, list[Tried]]:
    """The lines of the plot by their names: the tuned recipes, then those of one setting for all blocks."""
    series = {"tuned": list(found.curve)}
    for one in sorted(found.uniform, key=lambda one: one.price):
        series.setdefault(one.label, []).append(one)
    return series


def _line(found: Tuned) -> tuple[str, float]:
    if found.goal.kind is Kind.BUDGET:
        return "y", 100 * found.goal.value
    return "x", found.goal.limit(found.prices.whole) / found.prices.unit.size


def _cards(found: Tuned) -> str:
    best, agreement, whole = found.best, found.best.agreement, found.unmerged_macs
    timed = found.timed
    times = {MS.told(timed.merged): f"on {timed.runner}; unmerged {MS.told(timed.unmerged)}"} if timed else {}
    cards = times | {
        f"{agreement.mean:.1%}": "agreement with the unmerged masks, "
        f"{agreement.low:.1%} to {agreement.high:.1%}",
        GMAC.told(best.macs): f"{best.macs / whole:.0%} of the unmerged encoder's {whole / 1e9:.2f}",
        f"{min(map(min, best.ious)):.1%}": "agreement of the worst prompt",
        f"{best.prompts} prompts": f"on {len(found.tried_on)} pictures that no block was measured on",
    }
    return "".join(f'<div class="card"><b>{value}</b>{told}</div>' for value, told in cards.items())


def _key(found: Tuned, names: Sequence[str]) -> str:
    asked = f"asked for: {found.goal.kind.value} {found.goal.value:g}"
    marks = [
        f'<li><svg viewBox="0 0 18 14" aria-hidden="true"><path class="line l{number}" d="M0 7H18"/>'
        f'<g class="m{number}">{mark(number, 9, 7)}</g></svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    ]
    rule = '<svg viewBox="0 0 18 14" aria-hidden="true"><path class="asked" d="M0 7H18"/></svg>'
    ring = '<svg viewBox="0 0 18 14" aria-hidden="true"><circle class="ring" cx="9" cy="7" r="6"/></svg>'
    return "".join([*marks, f"<li>{ring}this recipe</li>", f"<li>{rule}{escape(asked)}</li>"])


def _block(index: int, block: BlockRecipe, found: Tuned) -> str:
    whole = found.global_blocks[index]
    share = f"{block.rate:.0%}" if block.merges else "–"
    kind = "global" if whole else "window"
    mlp = "MLP" if block.merge_mlp else "&nbsp;"
    told = f"{block.method.label}: rate {block.rate:g}" if block.merges else "no merging"
    return (
        f'<li class="{kind}" title="{escape(told)}">{index} {kind}'
        f'<div class="well">{_fill(block.rate)}<b>{share}</b></div>{mlp}</li>'
    )


def _fill(rate: float) -> str:
    return f'<i style="height:{100 * rate:.0f}%"></i>' if rate else ""


def _shot(shot: Shot) -> str:
    name, prompt = escape(shot.name), escape(shot.prompt)
    pictures = {
        "unmerged": (shot.unmerged, "mask of the unmerged encoder"),
        "merged": (shot.merged, "mask with this recipe"),
        "difference": (shot.difference, "pixels in which the masks differ"),
    }
    figures = "".join(
        f'<figure><img src="{uri}" alt="{name}, {prompt}: {told}"><figcaption>{title}</figcaption></figure>'
        for title, (uri, told) in pictures.items()
    )
    told = f'<p class="name"><strong>{name}</strong>, {prompt}: masks agree to {shot.iou:.1%}</p>'
    return f'<div class="shot">{told}<div class="trio">{figures}</div></div>'


def _row(one: Tried, best: bool) -> str:
    agreement = one.agreement
    predicted = "n/a" if one.predicted is None else f"{one.predicted:.2e}"
    name = f"{one.label}, rate {one.recipe.blocks[0].rate:g}" if one.label != "tuned" else one.label
    cells = [
        escape(name),
        f"{one.macs / 1e9:.2f}",
        *([] if one.nanoseconds is None else [f"{one.nanoseconds / MS.size:.2f}"]),
        predicted,
        f"{one.error:.2e}",
        f"{100 * agreement.mean:.1f}",
        f"{100 * agreement.low:.1f} to {100 * agreement.high:.1f}",
    ]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="best">{row}</tr>' if best else f"<tr>{row}</tr>"


def _errors(setting: BlockRecipe, errors: Sequence[float]) -> str:
    mlp = ", MLP" if setting.merge_mlp else ""
    cells = "".join(f"<td>{1e4 * error:.2f}</td>" for error in errors)
    return f"<tr><td>{escape(setting.method.label)} {setting.rate:g}{mlp}</td>{cells}</tr>"
