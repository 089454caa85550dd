"""The curve of agreement against cost, as an SVG that takes the colours of its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .settings import GMAC, Unit
from .trying import Tried

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 16, 50
"""Margins of the plot for numbers and names of the axes."""
MARKS = ("c", "s", "d", "t")
"""Marks of series: circle, square, diamond, triangle."""


@dataclass(frozen=True)
class Axes:
    """Where values lie in the drawing.

    Attributes:
        x: least and most cost, in the unit of the axis.
        y: least and most agreement, in %.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, cost: float, percent: float) -> tuple[float, float]:
        """Pixels from the left and from the top."""
        across = (cost - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - percent) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + down * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from `low` to `high`."""
    size = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= 9)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def curve(
    series: Sequence[Sequence[Tried]],
    best: Tried,
    unmerged: int,
    line: tuple[str, float] | None,
    unit: Unit = GMAC,
) -> str:
    """Draw series of recipes, each by rising cost.

    Args:
        series: at most as many as MARKS; the first is that of `best`. Each ends at the unmerged encoder.
        best: is ringed.
        unmerged: price of the unmerged encoder.
        line: `x` at this price in the unit, or `y` at this agreement in %: what was asked for.
        unit: of all prices.

    Returns:
        The element `svg`.
    """
    every = [one for some in series for one in some]
    lowest = min(100 * one.agreement.low for one in every)
    least, most = min(one.price for one in every), max(unmerged, *(one.price for one in every))
    axes = Axes((least / unit.size * 0.95, most / unit.size * 1.02), (max(0, lowest - 1), 100.5))
    parts = [*_grid(axes, unit), *_asked(axes, line)]
    for number, some in reversed(list(enumerate(series))):
        parts += _series(axes, some, number, unmerged, unit)
    x, y = axes.place(best.price / unit.size, 100 * best.agreement.mean)
    parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
    told = (
        f"Agreement against {unit.what}. The recipe has {unit.told(best.price)} and an agreement "
        f"of {best.agreement.mean:.1%}; the unmerged encoder has {unit.told(unmerged)}."
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
        + "".join(parts)
        + "</svg>"
    )


def _grid(axes: Axes, unit: Unit) -> list[str]:
    parts = []
    for value in ticks(*axes.x):
        x, _ = axes.place(value, 0)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{value:g}</text>')
    for value in ticks(*axes.y):
        _, y = axes.place(0, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{value:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        *parts,
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{unit.axis}</text>',
        f'<text transform="translate(15 {middle}) rotate(-90)" text-anchor="middle">agreement, %</text>',
    ]


def _asked(axes: Axes, line: tuple[str, float] | None) -> list[str]:
    if line is None:
        return []
    axis, value = line
    x, y = axes.place(value, value)
    path = f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}" if axis == "y" else f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"
    return [f'<path class="asked" d="{path}"/>']


def _series(axes: Axes, some: Sequence[Tried], number: int, unmerged: int, unit: Unit) -> list[str]:
    places = [axes.place(one.price / unit.size, 100 * one.agreement.mean) for one in some]
    ends = [*places, axes.place(unmerged / unit.size, 100)]
    parts = [f'<polyline class="line l{number}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in ends)}"/>']
    for one, (x, y) in zip(some, places, strict=True):
        agreement = one.agreement
        (_, low), (_, high) = (axes.place(0, 100 * end) for end in (agreement.low, agreement.high))
        told = (
            f"{one.label}: {unit.told(one.price)}, {agreement.mean:.1%} "
            f"({agreement.low:.1%} to {agreement.high:.1%})"
        )
        parts.append(f'<path class="bar l{number}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(f'<g class="m{number}"><title>{escape(told)}</title>{mark(number, x, y)}</g>')
    return parts


def mark(number: int, x: float, y: float) -> str:
    """The mark of a series, centred at a place."""
    shapes = {
        "c": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        "s": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>',
        "d": f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>',
        "t": f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"/>',
    }
    return shapes[MARKS[number]]
