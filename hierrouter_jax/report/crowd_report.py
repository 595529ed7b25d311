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
ROW_SPREAD = 0.6  # of the distance between two rows, that the workers of a row share


def cells_figure(
    cells: Mapping[str, Mapping[str, Cell]], *, title: str, y_label: str = "", theme: Theme = LIGHT
) -> Figure:
    """Draw the score of every worker in every row, with its interval; workers differ by hue and by marker."""
    workers = list(dict.fromkeys(name for row in cells.values() for name in row))
    figure, axes = make_axes(theme, width_in=7.2, height_in=1.6 + 0.55 * len(cells))
    for index, worker in enumerate(workers):
        colour, marker = theme.hues[index % len(theme.hues)], MARKERS[index % len(MARKERS)]
        offset = ROW_SPREAD * (index / max(len(workers) - 1, 1) - 0.5) if len(workers) > 1 else 0.0
        for place, row in enumerate(cells.values()):
            if worker in row:
                score = row[worker].score
                y = place + offset
                axes.plot([100 * score.low, 100 * score.high], [y, y], color=colour, linewidth=1.4, alpha=0.7)
                label = worker if place == _first_row(cells, worker) else None
                axes.plot([100 * score.mean], [y], marker, color=colour, markersize=6.5, label=label)
    axes.set_yticks(range(len(cells)), list(cells), color=theme.text)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    set_words(axes, theme, title=title, x_label="score, % (bars: 95% intervals over inputs)", y_label=y_label, note="")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5, frameon=False, labelcolor=theme.text)
    return figure


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


def matrix_page(matrix: Matrix) -> str:
    """Return the page of a matrix."""
    title = _matrix_title(matrix)
    calls = ", ".join(f"{name} {count:.1f}" for name, count in matrix.calls.items())
    notes = (
        "Every worker met the same sub-tasks: what came before them is frozen. An answer that does not fit its schema "
        f"counts 0. A run asks, on average: {calls}. Cost 1 is a thousand tokens of the pool's dearest model."
    )
    figure = CaptionedFigure(
        kind="matrix",
        caption="Score of every worker at every sub-task, with 95% intervals over inputs.",
        draw=lambda theme: cells_figure(matrix.cells, title=title, theme=theme),
    )
    body = f"<p>{html.escape(notes)}</p>\n{figure_html(figure)}{html_table(matrix_table(matrix))}"
    return page_of(f"Workers by sub-task: {matrix.algorithm}", body)


def chain_table(comparisons: Sequence[tuple[str, ChainComparison]]) -> Table:
    """Return a line a comparison, each under a name: votes, grades, costs."""
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
    first = comparisons[0][1]
    return Table(
        title=f"{first.algorithm}: chain or one prompt, {first.num_inputs} inputs", header=header, rows=tuple(rows)
    )


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


def _first_row(cells: Mapping[str, Mapping[str, Cell]], worker: str) -> int:
    return next(place for place, row in enumerate(cells.values()) if worker in row)


def _matrix_title(matrix: Matrix) -> str:
    return f"{matrix.algorithm}: workers by sub-task, {matrix.num_inputs} inputs"
