"""Quality against rate: every method is drawn, whatever the number of rates, pictures and methods."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from structsam_runtime.evaluation.coco_ap import AveragePrecision
from structsam_runtime.evaluation.metrics import Interval
from structsam_runtime.evaluation.plots import COLOURS, PANELS, parted, plot, plot_choices
from structsam_runtime.evaluation.report import METRICS, Counts, Summary
from structsam_runtime.evaluation.results import UNMERGED

METHODS = ("StructSAM", "StructSAM (bipartite)", "ToMe", "ToMeSD", "PiToMe", "VidToMe", "ALGM")
CAPPED = ("ToMe", "PiToMe")
BASELINE = 0.8


def summary(label: str, rate: float, mean: float, bar: float = 0.01) -> Summary:
    """One that lost `BASELINE - mean`, give or take `bar`, or twice that upwards."""
    removed = min(rate, 0.5) if label in CAPPED else rate
    change = Interval(mean - BASELINE, mean - BASELINE - bar, mean - BASELINE + 2 * bar)
    return Summary(
        dataset="dis5k-DIS-VD",
        model=f"{label}-{rate}" if rate else UNMERGED,
        label=label,
        facts={"rate": rate, "effective_window": removed - 0.001 * bool(rate), "effective_global": removed},
        counts=Counts(470, 470, 0, 0, 0),
        quality=dict.fromkeys(METRICS, Interval(mean, 0.1, 0.9)),
        change=dict.fromkeys(METRICS, change) if rate else {},
        ap=AveragePrecision(*6 * [0.5]),
        images_per_second=1.0,
        peak_bytes=None,
    )


def summaries(*rates: float, methods: tuple[str, ...] = METHODS, bar: float = 0.01) -> list[Summary]:
    merged = [
        summary(label, rate, 0.79 - 0.02 * index - 0.1 * rate, bar)
        for index, label in enumerate(methods)
        for rate in rates
    ]
    return [summary("Baseline", 0.0, BASELINE), *merged]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draws a plot and gives its figure: `drawn(summaries)`."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        save(self, *args, **kwargs)

    def draw(of: list[Summary], how: Callable[[list[Summary], Path], None] = plot) -> Figure:
        monkeypatch.setattr(Figure, "savefig", keep)
        how(of, tmp_path / "plot.png")
        return kept[-1]

    return draw


def lines(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {str(one.get_label()): one for one in axes.containers if isinstance(one, ErrorbarContainer)}


def test_every_method_has_a_line_with_its_numbers_in_every_panel(drawn: Any) -> None:
    figure = drawn(summaries(0.35, 0.55))
    assert len(figure.axes) == len(PANELS)
    for axes in figure.axes:
        assert list(lines(axes)) == list(METHODS)
        for index, container in enumerate(lines(axes).values()):
            expected = [100 * (0.79 - 0.02 * index - 0.1 * rate) for rate in (0.35, 0.55)]
            np.testing.assert_allclose(container.lines[0].get_ydata(orig=False), expected, rtol=0, atol=1e-9)
            (bars,) = container.lines[2]
            for (low, high), mean in zip(bars.get_segments(), expected, strict=True):
                assert (mean - low[1], high[1] - mean) == (
                    pytest.approx(1, abs=1e-9),
                    pytest.approx(2, abs=1e-9),
                )


def test_markers_of_methods_are_side_by_side_near_their_rate(drawn: Any) -> None:
    rates = (0.35, 0.55, 0.65)
    figure = drawn(summaries(*rates))
    axes = figure.axes[0]
    assert list(axes.get_xticks()) == list(rates)
    places = np.array([one.lines[0].get_xdata(orig=False) for one in lines(axes).values()])
    assert (abs(places - rates) < 0.025).all()  # a quarter of the way to the next rate
    assert (np.diff(places, axis=0) > 0.002).all()
    np.testing.assert_allclose(places.mean(0), rates, rtol=0, atol=1e-9)


def test_methods_that_remove_less_than_requested_are_hollow(drawn: Any) -> None:
    figure = drawn(summaries(0.35, 0.55))
    colours = dict(zip(METHODS, COLOURS, strict=True))
    hollow = [
        (to_hex(line.get_color()).upper(), len(line.get_xdata()))
        for line in figure.axes[0].lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert hollow == [(colours[label], 1) for label in CAPPED]


def test_the_legend_names_everything_once(drawn: Any) -> None:
    (legend,) = drawn(summaries(0.35, 0.55)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["Baseline", *METHODS]


def test_the_title_says_what_was_measured(drawn: Any) -> None:
    title = drawn(summaries(0.35)).get_suptitle()
    assert title.startswith("dis5k-DIS-VD: 470 pictures, 470 box prompts; bars:")


def test_every_method_has_a_distinct_style(drawn: Any) -> None:
    """Also with the ablations; black is the unmerged model's alone."""
    figure = drawn(summaries(0.35, 0.55, methods=(*METHODS, *(f"ablation {i}" for i in range(6)))))
    looks = set()
    for container in lines(figure.axes[0]).values():
        line = container.lines[0]
        looks.add((to_hex(line.get_color()), line.get_marker()))
        assert (to_hex(line.get_color()), line.get_linestyle()) != ("#000000", "--")
    assert len(looks) == 13


@pytest.mark.parametrize(
    ("rates", "bar", "suffix"),
    [
        *itertools.product([(0.35, 0.55), (0.55,), ()], [0.01, 0.0, float("nan")], [".png"]),
        ((0.35, 0.55), 0.01, ".svg"),
    ],
)
def test_any_number_of_rates_and_a_single_picture_is_drawn(
    tmp_path: Path, rates: tuple[float, ...], bar: float, suffix: str
) -> None:
    """A single picture gives no interval; warnings are errors here."""
    path = tmp_path / f"plot{suffix}"
    plot(summaries(*rates, bar=bar), path)
    assert path.stat().st_size > 5000


def test_colours_are_seen(tmp_path: Path) -> None:
    plot(summaries(0.55), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    found = {"#{:02X}{:02X}{:02X}".format(*colour) for colour in np.unique(pixels, axis=0).tolist()}
    assert set(COLOURS) <= found


def test_models_without_an_unmerged_one_are_drawn(drawn: Any) -> None:
    figure = drawn([summary("StructSAM", 0.55, 0.7)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["StructSAM"]


def test_choices_at_one_rate_are_apart_from_the_lines() -> None:
    swept = summaries(0.35, 0.55)
    assert parted(swept) == (swept, [])
    choices = [summary(f"choice {index}", 0.55, 0.7) for index in range(3)]
    lines, places = parted([*swept, *choices])
    assert lines == swept
    assert places == [swept[0], *(s for s in swept if s.facts["rate"] == 0.55), *choices]


def test_more_rates_of_one_method_leave_the_others_in_their_plot() -> None:
    swept = summaries(0.35, 0.55, 0.75)
    more = [summary("StructSAM", rate, 0.7) for rate in (0.25, 0.45)]
    two = [summary("two rates", rate, 0.7) for rate in (0.55, 0.75)]
    assert parted([*swept, *more, *two])[0] == [*swept, *more]


def test_every_choice_has_a_row_with_its_numbers(drawn: Any) -> None:
    figure = drawn(summaries(0.55), plot_choices)
    assert len(figure.axes) == len(PANELS)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == list(METHODS)[::-1]  # the first is the closest, and on top
    for axes in figure.axes:
        (container,) = axes.containers
        points, _, (bars,) = container
        means = [100 * (0.79 - 0.02 * index - 0.055) for index in range(len(METHODS))][::-1]
        assert points.get_xdata() == pytest.approx(means)
        ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
        assert np.array(ends) == pytest.approx(np.array([[mean - 1, mean + 2] for mean in means]))
        assert axes.lines[0].get_xdata()[0] == pytest.approx(100 * BASELINE)


def test_a_variant_far_below_all_others_is_written_at_the_end_of_the_axis(drawn: Any) -> None:
    """It would squeeze the others; those near keep the axis that they have without it."""
    near = [summary(f"choice {index}", 0.55, 0.7 + 0.01 * index) for index in range(8)]
    figure = drawn([*near, summary("broken", 0.55, 0.2)], plot_choices)
    for axes in figure.axes:
        left, right = axes.get_xlim()
        xs = axes.containers[0].lines[0].get_xdata()
        assert xs[0] < left < xs[1]
        assert left < xs[-1] < right
        (note,) = axes.texts
        assert note.get_text().endswith(f" {xs[0]:.1f}")
        assert note.xy == (left, 0)
    assert not any(axes.texts for axes in drawn(near, plot_choices).axes)
