"""A sweep as a picture, a table and a page: quality against cost on the test split, one point a cost weight.

Points are the runs that were picked without test data; the dashed line joins those on the front of the selection
split, where they landed on the test split, so it need not rise. Faint points are all runs, of every seed.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hierrouter_jax.evaluate.sweep_results import SplitScore, SweepFamily, SweepPoint, SweepResults
from hierrouter_jax.report.labels import PointLabel, place_labels, segment_pixels
from hierrouter_jax.report.page import figure_html, page_of
from hierrouter_jax.report.run_figures import CaptionedFigure
from hierrouter_jax.report.tables import Table, html_table
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, readable, set_words


def sweep_figure(results: SweepResults, *, theme: Theme = LIGHT) -> Figure:
    """Draw the sweep: routers, every model alone, and the bound of what the tree holds."""
    figure, axes = make_axes(theme, width_in=7.2, height_in=4.8)
    oracle = sorted(results.oracle, key=lambda score: score.cost)
    axes.plot(*_places(oracle), color=theme.oracle, linewidth=1.0, linestyle=":", marker="D", markersize=3.5)
    hues = {name: theme.hues[index % len(theme.hues)] for index, name in enumerate(results.singles)}
    for name, score in results.singles.items():
        axes.plot(*_places([score]), marker="s", markersize=7, linestyle="", color=hues[name], zorder=4)
    _draw_family(axes, results.separate, colour=theme.router, marker="o", label="a router each")
    if results.conditioned is not None:
        _draw_family(axes, results.conditioned, colour=theme.hues[2], marker="^", label="one router for all")
    set_words(
        axes,
        theme,
        title=f"{len(results.cost_weights)} cost weights x {len(results.seeds)} seeds",
        x_label="cost per query (1 = the dearest model answers the mean query once)",
        y_label=f"quality of {results.num_queries['test']} test queries, %",
        note=f"picked and front: {results.selection_split} split; bars: {results.bootstrap.level:.0%} intervals",
    )
    legend = axes.legend(loc="lower right", fontsize=8.5, frameon=False, labelcolor=theme.text)
    legend.set_zorder(9)
    axes.margins(x=0.08, y=0.08)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the labels are placed in pixels: nothing may move after them
    labels = [_label(score, name, readable(hues[name], theme)) for name, score in results.singles.items()]
    labels.append(_label(oracle[-1], "oracle", theme.text))
    place_labels(axes, labels, _obstacles(axes, results))
    return figure


def sweep_table(results: SweepResults) -> Table:
    """Return one line a cost weight: the picked run's test scores, the spread over seeds, and the front."""
    header = ("cost weight", "quality %", "cost", "utility %", "hops", "quality of seeds", "cost of seeds", "front")
    rows = [_row(f"{point.cost_weight:g}", point) for point in results.separate.points]
    if results.conditioned is not None:
        rows += [_row(f"{point.cost_weight:g}, one for all", point) for point in results.conditioned.points]
    title = (
        f"{results.num_queries['test']} test queries; seeds and front picked on {results.selection_split} "
        f"({results.num_queries[results.selection_split]} queries)"
    )
    return Table(title=title, header=header, rows=tuple(rows))


def sweep_page(results: SweepResults, *, name: str) -> str:
    """Return the self-contained HTML page of a sweep; `name` is escaped."""
    notes = (
        f"Each cost weight was trained with {len(results.seeds)} seeds. The seed shown and the cost weights on the "
        f"front are picked on the {results.selection_split} split; test numbers are read off afterwards. Intervals are "
        "bootstrap over queries, the spread of seeds is a standard deviation."
    )
    figure = CaptionedFigure(
        kind="sweep",
        caption="Quality against cost on the test split. Strong: the picked runs; faint: all of them; dashed: the "
        f"front by the {results.selection_split} split; dotted: the oracle, a bound and not a system.",
        draw=lambda theme: sweep_figure(results, theme=theme),
    )
    body = f"<p>{html.escape(notes)}</p>\n{figure_html(figure)}{html_table(sweep_table(results))}"
    return page_of(f"Sweep over cost weights: {name}", body)


def _draw_family(axes: Axes, family: SweepFamily, *, colour: str, marker: str, label: str) -> None:
    everything = [run.splits["test"] for run in family.runs]
    axes.plot(*_places(everything), marker=marker, markersize=3.5, linestyle="", color=colour, alpha=0.3, zorder=3)
    front = sorted((point.test for point in family.points if point.is_on_front), key=lambda score: score.cost)
    axes.plot(*_places(front), color=colour, linewidth=1.3, linestyle=(0, (4, 3)), zorder=5)
    for index, point in enumerate(family.points):
        _draw_point(axes, point, colour=colour, marker=marker, label=label if index == 0 else None)


def _draw_point(axes: Axes, point: SweepPoint, *, colour: str, marker: str, label: str | None) -> None:
    x, y = point.test.cost, 100 * point.test.quality
    size = 7.5 if point.is_on_front else 5.5
    if point.is_on_front:
        low, high = point.test.quality_ci
        axes.vlines(x, 100 * low, 100 * high, color=colour, linewidth=0.8, alpha=0.5)
    edge = axes.get_facecolor()
    axes.plot(x, y, marker, color=colour, markersize=size, markeredgecolor=edge, zorder=6, label=label)


def _places(scores: Sequence[SplitScore]) -> tuple[list[float], list[float]]:
    return [score.cost for score in scores], [100 * score.quality for score in scores]


def _label(score: SplitScore, text: str, colour: str) -> PointLabel:
    return PointLabel(x=score.cost, y=100 * score.quality, text=text, colour=colour, is_bold=False)


def _obstacles(axes: Axes, results: SweepResults) -> Float[np.ndarray, "point xy"]:
    """Return the pixels of everything drawn, the strong points many times over."""
    families = [family for family in (results.separate, results.conditioned) if family is not None]
    faint = [run.splits["test"] for family in families for run in family.runs]
    strong = [point.test for family in families for point in family.points] + list(results.singles.values())
    lines = [
        segment_pixels(axes, first, last)
        for first, last in itertools.pairwise(zip(*_places(results.oracle), strict=True))
    ]
    marks = axes.transData.transform(np.transpose(_places(faint + 12 * (strong + list(results.oracle)))))
    return np.concatenate([marks, *lines])


def _row(name: str, point: SweepPoint) -> tuple[str, ...]:
    test, mean, spread = point.test, point.test_mean, point.test_spread
    return (
        name,
        f"{100 * test.quality:.1f} [{100 * test.quality_ci[0]:.1f}, {100 * test.quality_ci[1]:.1f}]",
        f"{test.cost:.2f} [{test.cost_ci[0]:.2f}, {test.cost_ci[1]:.2f}]",
        f"{100 * test.utility:.1f}",
        f"{test.hops:.2f}",
        f"{100 * mean['quality']:.1f} +- {100 * spread['quality']:.1f}",
        f"{mean['cost']:.2f} +- {spread['cost']:.2f}",
        "yes" if point.is_on_front else "",
    )
