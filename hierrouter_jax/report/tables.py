"""A comparison as tables: for the terminal, for a page, for a README.

One function a table decides which numbers stand where; three renderers only draw. Qualities and utilities are shown
times 100, costs as they are (1 = the dearest model answering the mean query once).
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import rich.table
from rich import box
from rich.text import Text

from hierrouter_jax.evaluate.results import Comparison, Difference, Interval, SystemResult, TaskResult

SHOWN_NAMES = {
    "best_single": "best single",
    "best_fixed_route": "best fixed route",
    "one_shot": "one-shot",
    "knn": "kNN",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows and columns; the first column is a name, the others numbers. `emphasised` are row indices."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasised: frozenset[int] = frozenset()


def system_table(comparison: Comparison, *, is_compact: bool = False) -> Table:
    """Return every system's quality, cost, utility and hops, and its utility against the best single model.

    The compact form leaves the costs' intervals out, so that it fits a terminal of 80 columns.
    """
    level = f"{comparison.bootstrap.level:.0%}"
    cost = "cost" if is_compact else f"cost [{level}]"
    header = ("system", f"quality % [{level}]", cost, "utility %", "hops", "utility vs best")
    rows = tuple(_system_row(name, system, is_compact=is_compact) for name, system in comparison.systems.items())
    return Table(title=_heading(comparison), header=header, rows=rows, emphasised=_router_rows(comparison))


def task_table(comparison: Comparison, *, is_compact: bool = False) -> Table:
    """Return every system's quality and, unless compact, cost on each task."""
    tasks = tuple(dict.fromkeys(task for system in comparison.systems.values() for task in system.tasks))
    rows = []
    for name, system in comparison.systems.items():
        cells = [system.tasks.get(task) for task in tasks]
        rows.append((shown_name(name), *(_task_cell(cell, is_compact=is_compact) for cell in cells)))
    title = "Quality, %, by task" if is_compact else "Quality, %, and cost by task"
    return Table(title=title, header=("system", *tasks), rows=tuple(rows), emphasised=_router_rows(comparison))


def shown_name(name: str) -> str:
    """Return a system's name for readers."""
    return SHOWN_NAMES.get(name, name.removeprefix("single/"))


def rich_table(table: Table) -> rich.table.Table:
    """Draw a table for the terminal."""
    drawn = rich.table.Table(
        title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False
    )
    for index, name in enumerate(table.header):
        drawn.add_column(name, justify="left" if index == 0 else "right", overflow="fold", no_wrap=index > 0)
    for index, row in enumerate(table.rows):
        drawn.add_row(*map(Text, row), style="bold" if index in table.emphasised else None)
    return drawn


def markdown_table(table: Table) -> str:
    """Write a table in GitHub's markdown."""
    ruler = ["---", *["---:"] * (len(table.header) - 1)]
    lines = [[_markdown_cell(cell) for cell in table.header], ruler]
    for index, row in enumerate(table.rows):
        mark = "**" if index in table.emphasised else ""
        lines.append([f"{mark}{_markdown_cell(cell)}{mark}" if cell else "" for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def html_table(table: Table) -> str:
    """Write a table as HTML, every text escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = []
    for index, row in enumerate(table.rows):
        opening = '<tr class="emphasised">' if index in table.emphasised else "<tr>"
        body.append(opening + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    caption = html.escape(table.title)
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _router_rows(comparison: Comparison) -> frozenset[int]:
    return frozenset(index for index, name in enumerate(comparison.systems) if name == "router")


def _heading(comparison: Comparison) -> str:
    heading = f"{comparison.num_queries} {comparison.split} queries, cost weight {comparison.cost_weight:g}"
    best = comparison.systems.get("best_single")
    return heading if best is None else f"{heading}; best single model: {', '.join(best.routes)}"


def _system_row(name: str, system: SystemResult, *, is_compact: bool) -> tuple[str, ...]:
    cost_interval = "" if is_compact else " " + _interval(system.cost_ci, scale=1.0, decimals=2)
    return (
        shown_name(name),
        f"{100 * system.quality:.1f} {_interval(system.quality_ci, scale=100.0, decimals=1)}",
        f"{system.cost:.2f}{cost_interval}",
        f"{100 * system.utility:.1f}",
        f"{system.hops:.2f}",
        _difference(system.versus_best_single),
    )


def _task_cell(cell: TaskResult | None, *, is_compact: bool) -> str:
    if cell is None:
        return ""
    return f"{100 * cell.quality:.1f}" if is_compact else f"{100 * cell.quality:.1f} @ {cell.cost:.2f}"


def _interval(interval: Interval, *, scale: float, decimals: int) -> str:
    lower, upper = (scale * bound for bound in interval)
    return f"[{lower:.{decimals}f}, {upper:.{decimals}f}]"


def _difference(difference: Difference | None) -> str:
    """Write the utility's difference in points, the way the utility itself is written."""
    if difference is None:
        return ""
    lower, upper = (100 * bound for bound in difference.utility_ci)
    return f"{100 * difference.utility:+.1f} [{lower:+.1f}, {upper:+.1f}]"


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|")
