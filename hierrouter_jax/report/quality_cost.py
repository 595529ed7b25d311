"""Figure: quality against cost, every system a point with its intervals, and the front of what can be built.

The oracle chooses with the answers at hand, so it is drawn as a bound and is not on the front. A system that stands
exactly where another one does (the best single model is one of the single ones) shares its point and label.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hierrouter_jax.evaluate.pareto import pareto_mask
from hierrouter_jax.evaluate.results import Comparison, SystemResult
from hierrouter_jax.report.labels import PointLabel, place_labels, segment_pixels
from hierrouter_jax.report.tables import is_oracle, is_router, shown_name
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, readable, set_words


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How a system's point looks."""

    marker: str
    colour: str
    size: float
    order: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the plane: the system whose mark it gets, and the words beside it."""

    name: str
    text: str
    system: SystemResult


def quality_cost_figure(comparison: Comparison, *, theme: Theme = LIGHT) -> Figure:
    """Draw quality (percent) against normalised cost for every system of the comparison."""
    figure, axes = make_axes(theme, width_in=7.2, height_in=4.6)
    points = _distinct_points(comparison)
    for point in points:
        _draw_point(axes, point.system, system_mark(point.name, comparison, theme))
    corners = _front_corners([point.system for point in points if not is_oracle(point.name)])
    axes.plot(*zip(*corners, strict=True), color=theme.muted, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    set_words(
        axes,
        theme,
        title="Quality against cost",
        x_label="cost per query (1 = the dearest model answers the mean query once)",
        y_label="quality, %",
        note=f"bars: {comparison.bootstrap.level:.0%} intervals; dashed: Pareto front without the oracle",
    )
    axes.margins(x=0.08, y=0.08)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the labels are placed in pixels: nothing may move after them
    place_labels(axes, _labels(points, comparison, theme), _obstacles(axes, points, corners))
    return figure


def system_mark(name: str, comparison: Comparison, theme: Theme) -> Mark:
    """Return a system's mark: routers are stars, models are circles in their own hue, the rest are grey."""
    if is_router(name):
        return Mark(marker="*", colour=theme.router, size=17.0, order=6)
    if is_oracle(name):
        return Mark(marker="D", colour=theme.oracle, size=7.0, order=3)
    model = name.removeprefix("single/")
    if name.startswith("single/") and model in comparison.model_names:
        hue = theme.hues[comparison.model_names.index(model) % len(theme.hues)]
        return Mark(marker="o", colour=hue, size=8.5, order=5)
    marker = "X" if name == "random" else "s"
    return Mark(marker=marker, colour=theme.muted, size=7.5, order=4)


def _distinct_points(comparison: Comparison) -> list[Point]:
    """Return one point for each place in the plane; systems of one place share it, under the first one's mark."""
    points: dict[tuple[float, float], Point] = {}
    for name, system in sorted(comparison.systems.items(), key=lambda item: item[0] == "best_single"):
        place = (round(system.quality, 9), round(system.cost, 9))
        earlier = points.get(place)
        if earlier is None:
            points[place] = Point(name=name, text=shown_name(name), system=system)
        else:
            points[place] = Point(name=earlier.name, text=f"{earlier.text}\n= {shown_name(name)}", system=system)
    return list(points.values())


def _draw_point(axes: Axes, system: SystemResult, mark: Mark) -> None:
    x, y = system.cost, 100 * system.quality
    x_error = [[max(0.0, x - system.cost_ci[0])], [max(0.0, system.cost_ci[1] - x)]]
    y_error = [[max(0.0, y - 100 * system.quality_ci[0])], [max(0.0, 100 * system.quality_ci[1] - y)]]
    axes.errorbar(
        x,
        y,
        xerr=x_error,
        yerr=y_error,
        fmt=mark.marker,
        color=mark.colour,
        markersize=mark.size,
        markeredgecolor=axes.get_facecolor(),
        elinewidth=1.0,
        alpha=0.95,
        zorder=mark.order,
    )


def _front_corners(systems: Sequence[SystemResult]) -> list[tuple[float, float]]:
    """Return the front as a staircase: between two systems one gets the cheaper one's quality."""
    mask = pareto_mask([system.quality for system in systems], [system.cost for system in systems])
    front = sorted((system.cost, 100 * system.quality) for system, is_on in zip(systems, mask, strict=True) if is_on)
    corners = front[:1]
    for (_, earlier_quality), (cost, quality) in itertools.pairwise(front):
        corners += [(cost, earlier_quality), (cost, quality)]
    return corners


def _labels(points: Sequence[Point], comparison: Comparison, theme: Theme) -> list[PointLabel]:
    return [
        PointLabel(
            x=point.system.cost,
            y=100 * point.system.quality,
            text=point.text,
            colour=readable(system_mark(point.name, comparison, theme).colour, theme),
            is_bold=is_router(point.name),
        )
        for point in points
    ]


def _obstacles(
    axes: Axes, points: Sequence[Point], corners: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "point xy"]:
    """Return the pixels of the front, of every error bar and, many times over, of every marker."""
    pieces = [segment_pixels(axes, start, end) for start, end in itertools.pairwise(corners)]
    for system in (point.system for point in points):
        x, y = system.cost, 100 * system.quality
        pieces.append(segment_pixels(axes, (system.cost_ci[0], y), (system.cost_ci[1], y)))
        pieces.append(segment_pixels(axes, (x, 100 * system.quality_ci[0]), (x, 100 * system.quality_ci[1])))
        pieces.append(np.repeat(axes.transData.transform([(x, y)]), 12, axis=0))
    return np.concatenate(pieces)
