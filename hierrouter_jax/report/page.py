"""One self-contained HTML page about one or several runs: no script, no font, no picture from elsewhere.

Every figure is in the page twice, drawn for light and for dark, and the reader's system chooses. All texts that come
from data (names of runs, models, tasks) are escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.run_figures import (
    CaptionedFigure,
    RunReport,
    figures_of_all,
    figures_of_run,
    merged_comparison,
)
from hierrouter_jax.report.tables import html_table, system_table, task_cost_table, task_quality_table
from hierrouter_jax.report.themes import DARK, LIGHT, png_bytes

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c1c1c; --muted: #6a6a6a; --rule: #dcdcdc; --mark: #fbe9dc;
}
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
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tr.emphasised { font-weight: 600; } tr.emphasised td, tr.emphasised td:first-child { background: var(--mark); }
"""


def report_page(runs: Sequence[RunReport]) -> str:
    """Return the page as HTML; `DataError` when there is no run."""
    if not runs:
        raise DataError("A report needs at least one run with results.json; evaluate a run first.")
    title = "Routing report: " + ", ".join(run.name for run in runs)
    sections = [_overview(runs)] if len(runs) > 1 else []
    sections += [_run_section(run) for run in runs]
    return page_of(title, "".join(sections))


def page_of(title: str, body: str) -> str:
    """Return a whole page of HTML under one title, which is escaped; the body is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def _overview(runs: Sequence[RunReport]) -> str:
    table = html_table(system_table(merged_comparison(runs)))
    return f"<h2>All runs</h2>\n{table}" + "".join(map(figure_html, figures_of_all(runs)))


def _run_section(run: RunReport) -> str:
    pieces = [
        f"<h2>{html.escape(run.name)}</h2>\n",
        html_table(system_table(run.comparison)),
        _reading_notes(run.comparison),
        *map(figure_html, figures_of_run(run)),
        html_table(task_quality_table(run.comparison)),
        html_table(task_cost_table(run.comparison)),
    ]
    return "".join(pieces)


def _reading_notes(comparison: Comparison) -> str:
    notes = (
        f"Intervals are paired bootstrap over queries ({comparison.bootstrap.num_resamples} resamples), by task over "
        "the task's own; one of no width says that every query came out alike, not that the number is certain. "
        f"Utility is quality - {comparison.cost_weight:g} * cost, in percent. Cost 1 is the dearest "
        f"model answering the mean query once (cost model: {comparison.cost_model}). The best single model is chosen "
        "on the train split; the last column is the difference in utility from it."
    )
    return f"<p>{html.escape(notes)}</p>\n"


def figure_html(figure: CaptionedFigure) -> str:
    """Return a figure, drawn for light and for dark, with its caption."""
    light, dark = (_data_uri(png_bytes(figure.draw(theme))) for theme in (LIGHT, DARK))
    text = html.escape(figure.caption)
    return (
        f'<figure><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{text}"></picture><figcaption>{text}</figcaption></figure>\n'
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
