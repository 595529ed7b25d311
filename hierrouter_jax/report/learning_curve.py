"""Figure: how the utility of the router's routes grows with training.

Faint: the mean over an update's sampled training routes; strong: its running mean; points: the greedy policy on the
validation split. Dotted lines are utilities on the split that was evaluated at the end, named so, for scale. Utilities
are drawn in percent, as in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, set_words

SMOOTHING_SHARE = 0.05  # window of the running mean, as a share of the run
SAMPLED_KEY = "utility"
VALIDATION_KEY = "validation/utility"
NAME_GAP_PT = 11.0  # between the middles of two lines of words


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run: utility of the sampled routes at each update, and of the greedy ones where they were validated."""

    name: str
    updates: tuple[int, ...]
    sampled: tuple[float, ...]
    validated_at: tuple[int, ...] = ()
    validated: tuple[float, ...] = ()


def curve_of_metrics(name: str, rows: Sequence[Mapping[str, float]]) -> Curve:
    """Return a run's curve from the lines of its `metrics.jsonl`; `DataError` when there is none yet."""
    if not rows:
        raise DataError(f"{name} has no finished update in metrics.jsonl; train it before a report is made of it.")
    validated = [(int(row["update"]), row[VALIDATION_KEY]) for row in rows if VALIDATION_KEY in row]
    return Curve(
        name=name,
        updates=tuple(int(row["update"]) for row in rows),
        sampled=tuple(row[SAMPLED_KEY] for row in rows),
        validated_at=tuple(update for update, _ in validated),
        validated=tuple(value for _, value in validated),
    )


def learning_curve_figure(
    curves: Sequence[Curve], *, references: Mapping[str, float] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Draw the curves of one or several runs; `references` are utilities to hold them against, by name."""
    figure, axes = make_axes(theme, width_in=7.2, height_in=3.9 + 0.2 * len(curves))
    for index, curve in enumerate(curves):
        is_alone = len(curves) == 1
        colour = theme.router if is_alone else theme.hues[index % len(theme.hues)]
        _draw_curve(axes, curve, colour, prefix="" if is_alone else f"{curve.name}: ")
    set_words(
        axes,
        theme,
        title="Learning curve",
        x_label="updates",
        y_label="utility, % (quality - cost weight * cost)",
        note="faint: each update; strong: running mean",
    )
    axes.set_xlim(0, max(curve.updates[-1] for curve in curves))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=theme.text)
    _draw_references(axes, references or {}, theme)
    return figure


def running_mean(values: Float[np.ndarray, " update"], *, window: int) -> Float[np.ndarray, " update"]:
    """Return the mean of the last `window` values at each place, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw_curve(axes: Axes, curve: Curve, colour: str, *, prefix: str) -> None:
    window = max(1, round(SMOOTHING_SHARE * len(curve.sampled)))
    sampled = 100 * np.asarray(curve.sampled, np.float64)
    smooth = running_mean(sampled, window=window)
    axes.plot(curve.updates, sampled, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(curve.updates, smooth, color=colour, linewidth=1.8, label=f"{prefix}sampled routes, train")
    if curve.validated:
        validated = 100 * np.asarray(curve.validated, np.float64)
        label = f"{prefix}greedy routes, validation"
        axes.plot(curve.validated_at, validated, "o", color=colour, markersize=4.5, label=label, clip_on=False)


def _draw_references(axes: Axes, references: Mapping[str, float], theme: Theme) -> None:
    """Draw a dotted line for each utility and its name to the right of the axes, where no curve runs."""
    if not references:
        return
    ordered = sorted(references.items(), key=lambda reference: reference[1])
    for _, utility in ordered:
        axes.axhline(100 * utility, color=theme.muted, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.figure.canvas.draw()  # the height of the axes is known only after the layout
    bottom, top = axes.get_ylim()
    height_pt = axes.get_window_extent().height * 72 / axes.figure.dpi
    lines_pt = [(100 * utility - bottom) / (top - bottom) * height_pt for _, utility in ordered]
    for (name, utility), line_pt, name_pt in zip(ordered, lines_pt, spread(lines_pt, gap=NAME_GAP_PT), strict=True):
        axes.annotate(
            name,
            xy=(1, 100 * utility),
            xycoords=("axes fraction", "data"),
            xytext=(5, name_pt - line_pt),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=theme.muted,
        )


def spread(places: Sequence[float], *, gap: float) -> list[float]:
    """Return ascending places moved apart to at least `gap`; places that crowd stay around their middle.

    Crowds are merged from below: each is laid out evenly around the mean of its members' own places.
    """
    crowds: list[list[float]] = []
    for place in places:
        crowds.append([place])
        while len(crowds) > 1 and _laid_out(crowds[-2], gap)[-1] + gap > _laid_out(crowds[-1], gap)[0]:
            crowds[-2:] = [crowds[-2] + crowds[-1]]
    return [place for crowd in crowds for place in _laid_out(crowd, gap)]


def _laid_out(crowd: Sequence[float], gap: float) -> list[float]:
    start = sum(crowd) / len(crowd) - gap * (len(crowd) - 1) / 2
    return [start + gap * index for index in range(len(crowd))]
