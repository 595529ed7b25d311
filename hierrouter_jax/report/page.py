"""One self-contained HTML page about one or several runs: no script, no font, no picture from elsewhere.

Every figure is in the page twice, drawn for light and for dark, and the reader's system chooses. All texts that come
from data (names of runs, models, tasks) are escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.learning_curve import Curve, learning_curve_figure
from hierrouter_jax.report.quality_cost import quality_cost_figure
from hierrouter_jax.report.route_mix import route_mix_figure
from hierrouter_jax.report.tables import html_table, system_table, task_table
from hierrouter_jax.report.themes import DARK, LIGHT, Theme, png_bytes

DrawFigure = Callable[[Theme], Figure]

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1c1c; --muted: #6a6a6a; --rule: #dcdcdc; --mark: #fbe9dc; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8e8e8; --muted: #a5a5a5; --rule: #34373d; --mark: #3a2a1e; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
       max-width: 60rem; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
p, figcaption { color: var(--muted); max-width: 46rem; } figure { margin: 1.2rem 0; }
img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid var(--rule); padding: .3rem .6rem; text-align: right; white-space: nowrap;
         font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } tr.emphasised { background: var(--mark); font-weight: 600; }
"""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What the page says of one run; without a curve it is a comparison of baselines."""

    name: str
    comparison: Comparison
    curve: Curve | None = None


def report_page(runs: Sequence[RunReport]) -> str:
    """Return the page as HTML; `DataError` when there is no run."""
    if not runs:
        raise DataError("A report needs at least one run with results.json; evaluate a run first.")
    title = "Routing report: " + ", ".join(run.name for run in runs)
    sections = [_overview(runs)] if len(runs) > 1 else []
    sections += [_run_section(run) for run in runs]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )


def merged_comparison(runs: Sequence[RunReport]) -> Comparison:
    """Return the first run's comparison with every run's router in it, named after its run.

    Raises `DataError` when the runs were not evaluated on the same queries of the same pool.
    """
    first = runs[0].comparison
    for run in runs[1:]:
        other = run.comparison
        if (other.num_queries, other.split, other.model_names) != (first.num_queries, first.split, first.model_names):
            raise DataError(
                f"Runs in one report must be evaluated on the same split and pool, but {run.name} has "
                f"{other.num_queries} {other.split} queries of {', '.join(other.model_names)}, and {runs[0].name} has "
                f"{first.num_queries} {first.split} queries of {', '.join(first.model_names)}. Report them apart."
            )
    routers = {
        f"router {run.name}": run.comparison.systems["router"] for run in runs if "router" in run.comparison.systems
    }
    others = {name: system for name, system in first.systems.items() if name != "router"}
    return replace(first, systems=routers | others)


def _overview(runs: Sequence[RunReport]) -> str:
    merged = merged_comparison(runs)
    picture = _figure(
        lambda theme: quality_cost_figure(merged, theme=theme),
        "Every run's router beside the systems of the first run. The oracle and the differences depend on the cost "
        "weight; they are those of the first run.",
    )
    curves = [run.curve for run in runs if run.curve is not None]
    learning = _figure(lambda theme: learning_curve_figure(curves, theme=theme), "All runs.") if curves else ""
    return f"<h2>All runs</h2>\n{html_table(system_table(merged))}\n{picture}{learning}"


def _run_section(run: RunReport) -> str:
    comparison = run.comparison
    pieces = [f"<h2>{html.escape(run.name)}</h2>\n", html_table(system_table(comparison)), _reading_notes(comparison)]
    pieces.append(
        _figure(
            lambda theme: quality_cost_figure(comparison, theme=theme),
            f"Points are means over {comparison.num_queries} {comparison.split} queries, bars their "
            f"{comparison.bootstrap.level:.0%} bootstrap intervals. The dashed line is the Pareto front of everything "
            "but the oracle, which chooses with the answers known and is a bound.",
        )
    )
    if "router" in comparison.systems:
        pieces.append(
            _figure(
                lambda theme: route_mix_figure(comparison, theme=theme),
                "The fill is the first model's colour; stripes, where there are several hops, the last one's, which "
                "gives the answer.",
            )
        )
    if run.curve is not None:
        pieces.append(_learning_figure(run, run.curve))
    pieces.append(html_table(task_table(comparison)))
    return "".join(pieces)


def _learning_figure(run: RunReport, curve: Curve) -> str:
    systems = run.comparison.systems
    references = {
        f"{shown}, {run.comparison.split}": systems[name].utility
        for name, shown in (("best_single", "best single"), ("oracle", "oracle"))
        if name in systems
    }
    return _figure(
        lambda theme: learning_curve_figure([curve], references=references, theme=theme),
        "Faint: mean of each update's sampled training routes; strong: its running mean. The dotted lines are "
        f"utilities on the {run.comparison.split} split, so they give the scale and not a goal the curve must meet.",
    )


def _reading_notes(comparison: Comparison) -> str:
    notes = (
        f"Intervals are paired bootstrap over queries ({comparison.bootstrap.num_resamples} resamples). Utility is "
        f"quality - {comparison.cost_weight:g} * cost, in percent. Cost 1 is the dearest model answering the mean query "
        f"once (cost model: {comparison.cost_model}). The best single model is chosen on the train split."
    )
    return f"<p>{html.escape(notes)}</p>\n"


def _figure(draw: DrawFigure, caption: str) -> str:
    light, dark = (_data_uri(png_bytes(draw(theme))) for theme in (LIGHT, DARK))
    text = html.escape(caption)
    return (
        f'<figure><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{text}"></picture><figcaption>{text}</figcaption></figure>\n'
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
