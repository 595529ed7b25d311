"""Figure: which routes a system takes, task by task.

A bar has one band a hop, the first model's on top and the one that gives the answer lowest, each in its model's hue;
so a route and its reverse look different. The legend names the routes in the bars' order. Rare routes are gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.patches import Rectangle
from matplotlib.transforms import Transform

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.evaluate.routes import ROUTE_ARROW
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, set_words

MAX_ROUTES_SHOWN = 8
OTHER = "other routes"
ALL_TASKS = "all tasks"
BAR_HEIGHT = 0.72  # of the distance between two rows
MIN_NUMBERED_PERCENT = 3.0  # narrower bars have no room for their number
READING_NOTE = "a band a hop, from the top: first model to last"


def route_mix_figure(comparison: Comparison, *, system: str = "router", theme: Theme = LIGHT) -> Figure:
    """Draw the share of each route in each task as stacked bars; `DataError` when there is no such system."""
    if system not in comparison.systems:
        known = ", ".join(comparison.systems)
        raise DataError(f"the route mix needs the system {system!r}, but the results hold: {known}.")
    result = comparison.systems[system]
    mixes = {name: task.routes for name, task in result.tasks.items()} | {ALL_TASKS: result.routes}
    title = f"Routes of the {system}, by task"
    figure = mixes_figure(mixes, shown_routes(result.routes), comparison.model_names, title=title, theme=theme)
    figure.axes[0].get_yticklabels()[-1].set_fontweight("bold")
    return figure


def mixes_figure(
    mixes: Mapping[str, Mapping[str, float]],
    routes: Sequence[str],
    model_names: Sequence[str],
    *,
    title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw one stacked bar a mix, top to bottom: the shares of `routes`, those that get a colour of their own."""
    figure, axes = make_axes(theme, width_in=7.2, height_in=1.5 + 0.42 * len(mixes) + 0.2 * ((len(routes) + 1) // 2))
    for row, mix in enumerate(mixes.values()):
        _draw_row(axes, row, mix, routes, model_names, theme)
    axes.set_yticks(range(len(mixes)), list(mixes), color=theme.text)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 100)
    note = READING_NOTE if any(ROUTE_ARROW in route for route in routes) else ""
    set_words(axes, theme, title=title, x_label="share of queries, %", y_label="", note=note)
    figure.legend(
        handles=[_Bands(_hues(route, model_names, theme), theme.background) for route in routes],
        labels=routes,
        handler_map={_Bands: _BandsHandler()},
        handleheight=1.2,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.text,
    )
    return figure


def shown_routes(shares: Mapping[str, float]) -> list[str]:
    """Return the routes that get a colour of their own, commonest first, and `OTHER` when some do not."""
    ordered = sorted(shares, key=lambda route: (-shares[route], route))
    if len(ordered) <= MAX_ROUTES_SHOWN:
        return ordered
    return [*ordered[: MAX_ROUTES_SHOWN - 1], OTHER]


def _draw_row(
    axes: Axes, row: int, mix: Mapping[str, float], routes: Sequence[str], model_names: Sequence[str], theme: Theme
) -> None:
    left = 0.0
    named = sum(mix.get(route, 0.0) for route in routes)
    for route in routes:
        width = 100 * (max(0.0, 1 - named) if route == OTHER else mix.get(route, 0.0))
        hues = _hues(route, model_names, theme)
        height = BAR_HEIGHT / len(hues)
        for hop, hue in enumerate(hues):
            middle = row - BAR_HEIGHT / 2 + (hop + 0.5) * height
            axes.barh(middle, width, left=left, height=height, facecolor=hue, edgecolor=theme.background, lw=1.2)
        if width >= MIN_NUMBERED_PERCENT:
            _draw_share(axes, left + width / 2, row, width, theme)
        left += width


def _draw_share(axes: Axes, x: float, row: int, width: float, theme: Theme) -> None:
    """Write a share on its bar, on a patch of the page's colour, so that no band runs through the digits."""
    patch = {"boxstyle": "round,pad=0.2", "facecolor": theme.background, "edgecolor": "none", "alpha": 0.88}
    axes.text(x, row, f"{width:.0f}", ha="center", va="center", fontsize=8, color=theme.text, bbox=patch)


def _hues(route: str, model_names: Sequence[str], theme: Theme) -> tuple[str, ...]:
    """Return the colours of a route's bands, first hop first."""
    if route == OTHER:
        return (theme.grid,)
    return tuple(_hue(model, model_names, theme) for model in route.split(ROUTE_ARROW))


def _hue(model: str, model_names: Sequence[str], theme: Theme) -> str:
    return theme.hues[model_names.index(model) % len(theme.hues)] if model in model_names else theme.muted


@dataclass(frozen=True)
class _Bands:
    """A legend's key: what the bar of a route looks like."""

    hues: tuple[str, ...]
    edge: str


class _BandsHandler(HandlerBase):
    """Draws the bands in the legend as they are in the bars."""

    def create_artists(
        self,
        legend: Legend,
        orig_handle: Any,
        xdescent: float,
        ydescent: float,
        width: float,
        height: float,
        fontsize: float,
        trans: Transform,
    ) -> list[Artist]:
        band = height / len(orig_handle.hues)
        tops = [height - ydescent - hop * band for hop in range(len(orig_handle.hues))]
        return [
            Rectangle(
                (-xdescent, top - band),
                width,
                band,
                facecolor=hue,
                edgecolor=orig_handle.edge,
                lw=0.8,
                transform=trans,
            )
            for top, hue in zip(tops, orig_handle.hues, strict=True)
        ]
