"""Figure: how the utility of the router's routes grows with training.

Faint: the mean over an update's sampled training routes; strong: its running mean; points: the greedy policy on the
validation split. Dotted lines are utilities on the split that was evaluated at the end, named so, for scale.
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
    figure, axes = make_axes(theme, width_in=7.2, height_in=3.9)
    for index, curve in enumerate(curves):
        colour = theme.router if len(curves) == 1 else theme.hues[index % len(theme.hues)]
        _draw_curve(axes, curve, colour)
    for name, utility in (references or {}).items():
        _draw_reference(axes, name, utility, theme)
    set_words(axes, theme, title="Learning curve", x_label="updates", y_label="utility (quality - cost weight * cost)")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=theme.text, loc="best")
    return figure


def running_mean(values: Float[np.ndarray, " update"], *, window: int) -> Float[np.ndarray, " update"]:
    """Return the mean of the last `window` values at each place, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    window = max(1, round(SMOOTHING_SHARE * len(curve.sampled)))
    smooth = running_mean(np.asarray(curve.sampled, np.float64), window=window)
    axes.plot(curve.updates, curve.sampled, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(curve.updates, smooth, color=colour, linewidth=1.8, label=f"{curve.name}, sampled routes, train")
    if curve.validated:
        label = f"{curve.name}, greedy routes, validation"
        axes.plot(curve.validated_at, curve.validated, "o", color=colour, markersize=4.5, label=label)


def _draw_reference(axes: Axes, name: str, utility: float, theme: Theme) -> None:
    axes.axhline(utility, color=theme.muted, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.annotate(
        name,
        xy=(1, utility),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=theme.muted,
    )
