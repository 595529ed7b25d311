"""Which figures a report shows of a run, and of several runs together, each with the words that go under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.learning_curve import Curve, learning_curve_figure
from hierrouter_jax.report.quality_cost import quality_cost_figure
from hierrouter_jax.report.route_mix import route_mix_figure
from hierrouter_jax.report.tables import shown_name
from hierrouter_jax.report.themes import Theme


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What there is to show of one run; without a curve it is a comparison of baselines."""

    name: str
    comparison: Comparison
    curve: Curve | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionedFigure:
    """A figure that can be drawn in any theme."""

    kind: str
    caption: str
    draw: Callable[[Theme], Figure]


def figures_of_run(run: RunReport) -> list[CaptionedFigure]:
    """Return a run's figures in the order of reading."""
    figures = [_quality_cost(run.comparison)]
    if "router" in run.comparison.systems:
        figures.append(_route_mix(run.comparison))
    if run.curve is not None:
        figures.append(_learning_curve(run.curve, run.comparison))
    return figures


def figures_of_all(runs: Sequence[RunReport]) -> list[CaptionedFigure]:
    """Return the figures that hold several runs against each other."""
    merged = merged_comparison(runs)
    curves = [run.curve for run in runs if run.curve is not None]
    figures = [
        CaptionedFigure(
            kind="quality_cost",
            caption="Every run's router beside the systems of the first run. The oracle depends on the cost weight; "
            "it is the first run's.",
            draw=lambda theme: quality_cost_figure(merged, theme=theme),
        )
    ]
    if curves:
        figures.append(
            CaptionedFigure(
                kind="learning_curve",
                caption="Utilities of different cost weights are different things; compare curves of one weight only.",
                draw=lambda theme: learning_curve_figure(curves, theme=theme),
            )
        )
    return figures


def overview(runs: Sequence[RunReport]) -> Comparison:
    """Return what one table says of all runs: a run alone keeps its own names."""
    return runs[0].comparison if len(runs) == 1 else merged_comparison(runs)


def merged_comparison(runs: Sequence[RunReport]) -> Comparison:
    """Return the first run's comparison with every run's router in it, named after its run.

    Raises `DataError` when the runs were not evaluated on the same queries of the same pool, or share a name.
    """
    first = runs[0].comparison
    if len({run.name for run in runs}) < len(runs):
        raise DataError(f"Runs in one report must have different names, but are {[run.name for run in runs]}.")
    for run in runs[1:]:
        other = run.comparison
        if (other.num_queries, other.split, other.model_names) != (first.num_queries, first.split, first.model_names):
            raise DataError(
                f"Runs in one report must be evaluated on the same split and pool, but {run.name} has "
                f"{other.num_queries} {other.split} queries of {', '.join(other.model_names)}, and {runs[0].name} has "
                f"{first.num_queries} {first.split} queries of {', '.join(first.model_names)}. Report them apart."
            )
    named = {f"router {run.name}": run.comparison.systems.get("router") for run in runs}
    routers = {name: system for name, system in named.items() if system is not None}
    others = {name: system for name, system in first.systems.items() if name != "router"}
    return replace(first, systems=routers | others)


def _quality_cost(comparison: Comparison) -> CaptionedFigure:
    return CaptionedFigure(
        kind="quality_cost",
        caption=f"Points are means over {comparison.num_queries} {comparison.split} queries, bars their "
        f"{comparison.bootstrap.level:.0%} bootstrap intervals. The dashed line is the Pareto front of everything "
        "but the oracle, which chooses with the answers known and is a bound.",
        draw=lambda theme: quality_cost_figure(comparison, theme=theme),
    )


def _route_mix(comparison: Comparison) -> CaptionedFigure:
    return CaptionedFigure(
        kind="route_mix",
        caption=f"Shares of the {comparison.num_queries} {comparison.split} queries. A bar has one band a hop, the "
        "first on top; the lowest band is the model that gives the answer.",
        draw=lambda theme: route_mix_figure(comparison, theme=theme),
    )


def _learning_curve(curve: Curve, comparison: Comparison) -> CaptionedFigure:
    references = {
        f"{shown_name(name)}, {comparison.split}": comparison.systems[name].utility
        for name in ("router", "best_single", "oracle")
        if name in comparison.systems
    }
    return CaptionedFigure(
        kind="learning_curve",
        caption="Faint: mean of each update's sampled training routes; strong: its running mean. The dotted lines are "
        f"utilities on the {comparison.split} split, for scale: where the curve ends far above the router's own line, "
        "what was learned does not carry over to new queries.",
        draw=lambda theme: learning_curve_figure([curve], references=references, theme=theme),
    )
