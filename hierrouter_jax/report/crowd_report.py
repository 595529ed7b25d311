"""Crowd comparisons as tables, a picture and a page: workers by sub-task, chain or prompt, instructions, assignment."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from hierrouter_jax.crowd.comparison.assign import Assignment
from hierrouter_jax.crowd.comparison.chain_or_prompt import ChainComparison
from hierrouter_jax.crowd.comparison.intervals import Estimate
from hierrouter_jax.crowd.comparison.matrix import Cell, Matrix
from hierrouter_jax.crowd.comparison.probe import Probe
from hierrouter_jax.report.page import figure_html, page_of
from hierrouter_jax.report.run_figures import CaptionedFigure
from hierrouter_jax.report.tables import Table, html_table
from hierrouter_jax.report.themes import LIGHT, Theme, make_axes, set_words

MARKERS = "osD^vP*X"
ROW_SPREAD = 0.6  # of the distance between two rows, that the estimates of a row share
_FROZEN = (
    "Every worker met the same sub-tasks: what came before them is frozen. An answer that does not fit its schema "
    "counts 0."
)
_COST = "Cost 1 is a thousand tokens of the pool's dearest model."


def estimates_figure(
    rows: Mapping[str, Mapping[str, Estimate]], *, title: str, x_label: str, y_label: str = "", theme: Theme = LIGHT
) -> Figure:
    """Draw estimates in percent, a row of them under each other, with intervals; series differ by hue and marker."""
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure, axes = make_axes(theme, width_in=7.2, height_in=1.6 + max(0.55, 0.16 * len(series)) * len(rows))
    for index, name in enumerate(series):
        colour, marker = theme.hues[index % len(theme.hues)], MARKERS[index % len(MARKERS)]
        offset = ROW_SPREAD * (index / max(len(series) - 1, 1) - 0.5) if len(series) > 1 else 0.0
        first = next(place for place, row in enumerate(rows.values()) if name in row)
        for place, row in enumerate(rows.values()):
            if name in row:
                one = row[name]
                y = place + offset
                axes.plot([100 * one.low, 100 * one.high], [y, y], color=colour, linewidth=1.4, alpha=0.7)
                label = name if place == first else None
                axes.plot([100 * one.mean], [y], marker, color=colour, markersize=6.5, label=label)
    axes.set_yticks(range(len(rows)), list(rows), color=theme.text)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    set_words(axes, theme, title=title, x_label=f"{x_label}, % (bars: 95% intervals over inputs)", y_label=y_label)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5, frameon=False, labelcolor=theme.text)
    return figure


def cells_figure(cells: Mapping[str, Mapping[str, Cell]], *, title: str, theme: Theme = LIGHT) -> Figure:
    """Draw the score of every worker in every row."""
    scores = {name: {worker: cell.score for worker, cell in row.items()} for name, row in cells.items()}
    return estimates_figure(scores, title=title, x_label="score", theme=theme)


def cells_table(cells: Mapping[str, Mapping[str, Cell]], *, title: str, name: str) -> Table:
    """Return a line a row and worker: score, share of usable answers, cost of one."""
    header = (name, "worker", "score % [95%]", "inputs", "usable %", "answers", "cost of one")
    rows = [
        (
            row_name,
            worker,
            shown(cell.score),
            str(cell.score.count),
            f"{100 * cell.usable:.0f}",
            str(cell.num_asked),
            f"{cell.cost:.3f}",
        )
        for row_name, row in cells.items()
        for worker, cell in row.items()
    ]
    return Table(title=title, header=header, rows=tuple(rows))


def matrix_table(matrix: Matrix) -> Table:
    """Return workers by sub-task."""
    return cells_table(matrix.cells, title=_matrix_title(matrix), name="sub-task")


def matrix_figure(matrix: Matrix, *, theme: Theme = LIGHT) -> Figure:
    """Draw the score of every worker at every sub-task."""
    return cells_figure(matrix.cells, title=_matrix_title(matrix), theme=theme)


def matrix_page(matrix: Matrix) -> str:
    """Return the page of a matrix."""
    calls = ", ".join(f"{name} {count:.1f}" for name, count in matrix.calls.items())
    notes = f"{_FROZEN} A run asks, on average: {calls}. {_COST}"
    figure = CaptionedFigure(
        kind="matrix",
        caption="Score of every worker at every sub-task, with 95% intervals over inputs.",
        draw=lambda theme: matrix_figure(matrix, theme=theme),
    )
    return _page(f"Workers by sub-task: {matrix.algorithm}", notes, figure, matrix_table(matrix))


def chain_table(comparisons: Sequence[tuple[str, ChainComparison]]) -> Table:
    """Return a line a comparison, each under a name: votes and grades, as far as there are any; costs, failures."""
    header = (
        "crew",
        "chain preferred % [95%]",
        "chain graded % [95%]",
        "one prompt % [95%]",
        "difference [95%]",
        "calls, chain",
        "cost, chain",
        "cost, prompt",
        "failed, chain",
        "failed, prompt",
    )
    rows = [
        (
            name,
            _perhaps(one.preferred),
            _perhaps(one.chain_gold),
            _perhaps(one.prompt_gold),
            "" if one.gold_difference is None else shown(one.gold_difference, sign="+"),
            f"{one.chain_calls:.1f}",
            f"{one.chain_cost:.2f}",
            f"{one.prompt_cost:.2f}",
            str(one.chain_failures),
            str(one.prompt_failures),
        )
        for name, one in comparisons
    ]
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    first = comparisons[0][1]
    return Table(
        title=f"{first.algorithm}: chain or one prompt, {first.num_inputs} inputs",
        header=tuple(header[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows),
    )


def chain_figure(comparisons: Sequence[tuple[str, ChainComparison]], *, theme: Theme = LIGHT) -> Figure:
    """Draw, for each crew, the grades of chain and one prompt and the judges' preference, as far as there are any."""
    rows = {name: found for name, one in comparisons if (found := _estimates(one))}
    return estimates_figure(
        rows, title=chain_table(comparisons).title, x_label="graded right, or preferred", theme=theme
    )


def has_estimates(comparisons: Sequence[tuple[str, ChainComparison]]) -> bool:
    """Say whether there is anything to draw."""
    return any(_estimates(one) for _, one in comparisons)


def chain_page(comparisons: Sequence[tuple[str, ChainComparison]]) -> str:
    """Return the page of comparisons of one algorithm with its one prompt, each under the name of its crew."""
    table = chain_table(comparisons)
    notes = (
        "The same inputs went through the chain and to one worker in one prompt. Judges saw the two results side by "
        "side, in a random order and without their makers' names; 50% is no preference. A side that failed loses its "
        f"input, and is graded 0. {_COST}"
    )
    figure = CaptionedFigure(
        kind="compare",
        caption="Chain and one prompt: grades and preference, with 95% intervals over inputs.",
        draw=lambda theme: chain_figure(comparisons, theme=theme),
    )
    name = comparisons[0][1].algorithm
    return _page(f"Chain or one prompt: {name}", notes, figure if has_estimates(comparisons) else None, table)


def probe_figure(probe: Probe, *, theme: Theme = LIGHT) -> Figure:
    """Draw the score of every worker under every phrasing."""
    return cells_figure(probe.cells, title=f"{probe.algorithm}: phrasings of {probe.subtask}", theme=theme)


def probe_page(probe: Probe) -> str:
    """Return the page of a probe."""
    spread = ", ".join(f"{name} {100 * value:.1f}" for name, value in probe.spread.items())
    notes = f"{_FROZEN} Best phrasing less worst, in points: {spread}. {_COST}"
    figure = CaptionedFigure(
        kind="probe",
        caption="Score of every worker under every phrasing, with 95% intervals over inputs.",
        draw=lambda theme: probe_figure(probe, theme=theme),
    )
    return _page(f"Phrasings of {probe.subtask}: {probe.algorithm}", notes, figure, probe_table(probe))


def probe_table(probe: Probe) -> Table:
    """Return a line a phrasing and worker, and the spread of each worker in the title."""
    spread = ", ".join(f"{name} {100 * value:.1f}" for name, value in probe.spread.items())
    title = f"{probe.algorithm}: phrasings of {probe.subtask}; best less worst, points: {spread}"
    return cells_table(probe.cells, title=title, name="phrasing")


def assignment_table(assignment: Assignment) -> Table:
    """Return who does what."""
    title = (
        f"people cost {assignment.people_cost:.2f} a run; all steps right: {100 * assignment.expected:.1f}% "
        f"(by models alone {100 * assignment.expected_by_models:.1f}%)"
    )
    return Table(title=title, header=("sub-task", "worker"), rows=tuple(assignment.worker_of.items()))


def shown(estimate: Estimate, *, sign: str = "") -> str:
    """Return an estimate in percent, with its interval."""
    low, high = f"{100 * estimate.low:{sign}.1f}", f"{100 * estimate.high:{sign}.1f}"
    return f"{100 * estimate.mean:{sign}.1f} [{low}, {high}]"


def _perhaps(estimate: Estimate | None) -> str:
    return "" if estimate is None else shown(estimate)


def _estimates(one: ChainComparison) -> dict[str, Estimate]:
    found = {
        "chain, graded": one.chain_gold,
        "one prompt, graded": one.prompt_gold,
        "chain preferred": one.preferred,
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _page(title: str, notes: str, figure: CaptionedFigure | None, table: Table) -> str:
    drawn = "" if figure is None else figure_html(figure)
    return page_of(title, f"<p>{html.escape(notes)}</p>\n{drawn}{html_table(table)}")


def _matrix_title(matrix: Matrix) -> str:
    return f"{matrix.algorithm}: workers by sub-task, {matrix.num_inputs} inputs"
