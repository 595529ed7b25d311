"""Figure: which routes a system takes, task by task.

A bar's fill is the hue of the route's first model; a route of several hops is striped in the hue of its last model,
the one that gives the answer. Rare routes are gathered as "other".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.evaluate.routes import ROUTE_ARROW
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, set_words

MAX_ROUTES_SHOWN = 8
OTHER = "other routes"
ALL_TASKS = "all tasks"
HATCH_LINEWIDTH_PT = 2.2
HATCHES = {1: "", 2: "///", 3: "xxx"}


@dataclass(frozen=True, kw_only=True)
class Fill:
    """How a route's bar looks: `stripe` is the colour of the hatch."""

    face: str
    stripe: str
    hatch: str


def route_mix_figure(comparison: Comparison, *, system: str = "router", theme: Theme = LIGHT) -> Figure:
    """Draw the share of each route in each task as stacked bars; `DataError` when there is no such system."""
    if system not in comparison.systems:
        known = ", ".join(comparison.systems)
        raise DataError(f"the route mix needs the system {system!r}, but the results hold: {known}.")
    result = comparison.systems[system]
    mixes = {name: task.routes for name, task in result.tasks.items()} | {ALL_TASKS: result.routes}
    routes = shown_routes(result.routes)
    figure, axes = make_axes(theme, width_in=7.2, height_in=1.5 + 0.42 * len(mixes) + 0.2 * ((len(routes) + 1) // 2))
    for row, mix in enumerate(mixes.values()):
        _draw_row(axes, row, mix, routes, comparison.model_names, theme)
    axes.set_yticks(range(len(mixes)), list(mixes), color=theme.text)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 100)
    set_words(axes, theme, title=f"Routes of the {system}, by task", x_label="share of queries, %", y_label="")
    handles = [_patch(route, comparison.model_names, theme) for route in routes]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=theme.text
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
        fill = _fill(route, model_names, theme)
        striped = axes.barh(
            row, width, left=left, height=0.72, facecolor=fill.face, hatch=fill.hatch, edgecolor=fill.stripe, lw=0
        )
        striped[0].set_hatch_linewidth(HATCH_LINEWIDTH_PT)
        axes.barh(row, width, left=left, height=0.72, fill=False, edgecolor=theme.background, lw=1.2)
        if width >= 9:
            _draw_share(axes, left + width / 2, row, width, theme)
        left += width


def _draw_share(axes: Axes, x: float, row: int, width: float, theme: Theme) -> None:
    """Write a share on its bar, on a patch of the page's colour, so that stripes do not run through the digits."""
    patch = {"boxstyle": "round,pad=0.2", "facecolor": theme.background, "edgecolor": "none", "alpha": 0.88}
    axes.text(x, row, f"{width:.0f}", ha="center", va="center", fontsize=8, color=theme.text, bbox=patch)


def _fill(route: str, model_names: Sequence[str], theme: Theme) -> Fill:
    if route == OTHER:
        return Fill(face=theme.grid, stripe=theme.grid, hatch="")
    hops = route.split(ROUTE_ARROW)
    first, last = (_hue(name, model_names, theme) for name in (hops[0], hops[-1]))
    same = first == last and len(hops) > 1
    return Fill(face=first, stripe=theme.background if same else last, hatch=HATCHES.get(len(hops), "..."))


def _hue(model: str, model_names: Sequence[str], theme: Theme) -> str:
    return theme.hues[model_names.index(model) % len(theme.hues)] if model in model_names else theme.muted


def _patch(route: str, model_names: Sequence[str], theme: Theme) -> Patch:
    fill = _fill(route, model_names, theme)
    patch = Patch(facecolor=fill.face, edgecolor=fill.stripe, hatch=fill.hatch, lw=0, label=route)
    patch.set_hatch_linewidth(HATCH_LINEWIDTH_PT)
    return patch
