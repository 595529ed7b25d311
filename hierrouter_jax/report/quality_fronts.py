"""Figure: quality against cost over many cost weights, a line a system, beside every model alone and the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison, SystemResult
from hierrouter_jax.report.labels import PointLabel, place_labels, segment_pixels
from hierrouter_jax.report.tables import is_oracle, is_router, shown_name
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, readable, set_words

MARKERS = ("o", "^", "v", "P", "X", "d", "<", ">", "p")


def quality_fronts_figure(
    comparisons: Mapping[float, Comparison], systems: Sequence[str], *, theme: Theme = LIGHT
) -> Figure:
    """Draw the systems through the comparisons that hold them, one for each cost weight.

    The first of `systems` is drawn boldest. Models alone are squares with their intervals. Raises `DataError` for
    systems that no comparison holds.
    """
    if not comparisons:
        raise DataError("Fronts need the comparison of at least one cost weight, but there is none.")
    known = set().union(*(comparison.systems for comparison in comparisons.values()))
    lost = [name for name in systems if name not in known]
    if lost:
        raise DataError(f"Fronts need systems that a comparison holds, but {lost} are not among {sorted(known)}.")
    figure, axes = make_axes(theme, width_in=7.2, height_in=5.2)
    ordered = [comparisons[weight].systems for weight in sorted(comparisons)]
    lines = {name: [one[name] for one in ordered if name in one] for name in systems}
    for index, (name, points) in enumerate(lines.items()):
        _draw_line(axes, name, points, index, theme)
    some = next(iter(comparisons.values()))
    singles = {name: system for name, system in some.systems.items() if name.startswith("single/")}
    hues = {name: theme.hues[index % len(theme.hues)] for index, name in enumerate(singles)}
    for name, system in singles.items():
        _draw_single(axes, system, hues[name])
    set_words(
        axes,
        theme,
        title=f"Quality against cost, {len(comparisons)} cost weights",
        x_label="cost per query (1 = the dearest model answers the mean query once)",
        y_label=f"quality of {some.num_queries} {some.split} queries, %",
        note=f"squares: models alone, {some.bootstrap.level:.0%} intervals",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=theme.text)
    axes.margins(x=0.08, y=0.08)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the labels are placed in pixels: nothing may move after them
    labels = [
        PointLabel(x=one.cost, y=100 * one.quality, text=shown_name(name), colour=readable(hues[name], theme))
        for name, one in singles.items()
    ]
    place_labels(axes, labels, _obstacles(axes, [*lines.values(), *([one] for one in singles.values())]))
    return figure


def _draw_line(axes: Axes, name: str, points: Sequence[SystemResult], index: int, theme: Theme) -> None:
    ordered = sorted(points, key=lambda point: point.cost)
    colour = theme.router if index == 0 else theme.hues[index % len(theme.hues)]
    style: dict[str, Any] = {"linewidth": 1.2, "markersize": 5, "linestyle": (0, (4, 2)), "alpha": 0.85}
    marker = MARKERS[index % len(MARKERS)]
    if is_router(name) or index == 0:
        style = {"linewidth": 2.2, "markersize": 7, "zorder": 6}
    elif is_oracle(name):
        colour, marker, style = theme.oracle, "D", {"linewidth": 1.0, "markersize": 3.5, "linestyle": ":"}
    x, y = [point.cost for point in ordered], [100 * point.quality for point in ordered]
    axes.plot(x, y, color=colour, marker=marker, label=shown_name(name), **style)


def _draw_single(axes: Axes, system: SystemResult, colour: str) -> None:
    y, (low, high) = 100 * system.quality, system.quality_ci
    error = [[max(0.0, y - 100 * low)], [max(0.0, 100 * high - y)]]
    axes.errorbar(system.cost, y, yerr=error, fmt="s", color=colour, markersize=7, elinewidth=0.9, zorder=4)


def _obstacles(axes: Axes, lines: Sequence[Sequence[SystemResult]]) -> Float[np.ndarray, "point xy"]:
    """Return the pixels of all lines, points and intervals, the points many times over."""
    pieces = []
    for line in lines:
        places = [(point.cost, 100 * point.quality) for point in sorted(line, key=lambda point: point.cost)]
        pieces += [segment_pixels(axes, first, last) for first, last in itertools.pairwise(places)]
        pieces.append(np.repeat(axes.transData.transform(places), 12, axis=0))
        if len(line) == 1:
            low, high = (100 * bound for bound in line[0].quality_ci)
            pieces.append(segment_pixels(axes, (line[0].cost, low), (line[0].cost, high)))
    return np.concatenate(pieces)
